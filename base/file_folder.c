/* file_folder.c - the part of file.h that walks, makes, removes and locks folders. */
#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { DEPTH_MAX = 16 }; /* folders of ours are two deep */

static bool fail_folder(Err *err, ErrCode code, const char *verb, const char *path, int error)
{
    char shown[1024];
    const char *why = strerrordesc_np(error);
    return FAIL(err, code, "could not %s %s: %s", verb, text_printable(shown, sizeof shown, path, strlen(path)),
                why ? why : "unknown error");
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool file_in_folder(const char *folder, const char *name)
{
    Err ignored = {0};
    char *path = path_join(folder, name, &ignored);
    const bool there = path && file_exists(path);
    mem_free(path);
    return there;
}

bool file_is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *path_join(const char *folder, const char *name, Err *err)
{
    Text t = {0};
    const size_t length = strlen(folder);
    const bool slash = length > 0 && folder[length - 1] != '/';
    if (text_add(&t, folder, length, err) && text_add(&t, "/", slash, err) && text_add_z(&t, name, err)) return t.bytes;
    text_free(&t);
    return NULL;
}

bool file_make_folders(const char *path, Err *err)
{
    char *partial = mem_copy_text(path, err);
    if (!partial) return false;
    bool ok = true;
    const size_t length = strlen(path);
    for (size_t i = 1; ok && i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        partial[i] = '\0';
        if (!file_is_folder(partial) && sys_mkdir(partial, 0777) != 0 &&
            !(errno == EEXIST && file_is_folder(partial))) {
            ok = fail_folder(err, ERR_DISK, "create the folder", partial, errno);
        }
        partial[i] = path[i];
    }
    mem_free(partial);
    return ok;
}

static int compare_names(const void *a, const void *b)
{
    char *const *x = a;
    char *const *y = b;
    return strcmp(*x, *y);
}

static bool list_add(FileList *list, const char *name, Err *err)
{
    if (!mem_grow(&list->names, &list->capacity, list->count + 1, sizeof *list->names, err)) return false;
    list->names[list->count] = mem_copy_text(name, err);
    return list->names[list->count++] != NULL;
}

/* Takes over `fd`. */
static bool list_fd(FileList *out, int fd, const char *shown, ErrCode code, Err *err)
{
    FileList list = {0};
    DIR *dir = fdopendir(fd);
    if (!dir) {
        (void)fail_folder(err, code, "read the folder", shown, errno);
        close(fd);
        return false;
    }
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(dir);
        if (!entry) break;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        TRY(list_add(&list, entry->d_name, err));
    }
    if (errno != 0) {
        (void)fail_folder(err, code, "read the folder", shown, errno);
        goto fail;
    }
    closedir(dir);
    if (list.count) qsort(list.names, list.count, sizeof *list.names, compare_names);
    *out = list;
    return true;
fail:
    closedir(dir);
    file_list_free(&list);
    return false;
}

bool file_list(FileList *out, const char *folder, ErrCode code, Err *err)
{
    const int fd = sys_open(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY | O_NONBLOCK, 0);
    if (fd < 0) return fail_folder(err, code, "read the folder", folder, errno);
    return list_fd(out, fd, folder, code, err);
}

void file_list_free(FileList *list)
{
    for (size_t i = 0; i < list->count; i++)
        mem_free(list->names[i]);
    mem_free(list->names);
    *list = (FileList){0};
}

/* Removes what is in the folder `fd`, which it takes over. Links are removed, never followed. */
static bool empty_folder(int fd, const char *shown, int depth, Err *err)
{
    FileList list = {0};
    bool ok = false;
    const int copy = dup(fd);
    if (copy < 0) {
        (void)fail_folder(err, ERR_DISK, "read the folder", shown, errno);
        goto done;
    }
    if (!list_fd(&list, copy, shown, ERR_DISK, err)) goto done;
    for (size_t i = 0; i < list.count; i++) {
        const int child = sys_open(fd, list.names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK, 0);
        if (child >= 0 && depth >= DEPTH_MAX) {
            close(child);
            (void)FAIL(err, ERR_DISK, "%s is nested too deeply to be a folder of ours; it was not removed", shown);
            goto done;
        }
        if (child >= 0 && !empty_folder(child, shown, depth + 1, err)) goto done;
        if (sys_unlink(fd, list.names[i], child >= 0 ? AT_REMOVEDIR : 0) != 0 && errno != ENOENT) {
            (void)fail_folder(err, ERR_DISK, "remove a part of", shown, errno);
            goto done;
        }
    }
    ok = true;
done:
    file_list_free(&list);
    close(fd);
    return ok;
}

static bool is_link(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

bool file_remove_tree(const char *path, Err *err)
{
    const int fd = sys_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK, 0);
    const int error = errno;
    if (fd < 0 && error != ENOENT && is_link(path)) { /* of the user's; what it points at is theirs too */
        if (sys_unlink(AT_FDCWD, path, 0) == 0) return true;
        return fail_folder(err, ERR_DISK, "remove the link", path, errno);
    }
    if (fd < 0) return error == ENOENT || fail_folder(err, ERR_DISK, "remove the folder", path, error);
    if (!empty_folder(fd, path, 0, err)) return false;
    if (sys_unlink(AT_FDCWD, path, AT_REMOVEDIR) == 0) return true;
    return fail_folder(err, ERR_DISK, "remove the folder", path, errno);
}

bool file_free_space(uint64_t *out, const char *path, Err *err)
{
    char *probe = mem_alloc(strlen(path) + 2, 1, err); /* room for "." */
    if (!probe) return false;
    memcpy(probe, path, strlen(path));
    struct statvfs fs;
    int rc = statvfs(probe, &fs);
    while (rc != 0 && errno == ENOENT && strcmp(probe, ".") != 0 && strcmp(probe, "/") != 0) {
        char *slash = strrchr(probe, '/'); /* the folder is still to be made: ask for the one above */
        if (!slash) {
            probe[0] = '.';
            probe[1] = '\0';
        } else {
            slash[slash == probe] = '\0';
        }
        rc = statvfs(probe, &fs);
    }
    const int error = errno;
    mem_free(probe);
    if (rc != 0) return fail_folder(err, ERR_DISK, "find the free space of", path, error);
    if (!checked_mul(fs.f_bavail, fs.f_frsize, out)) *out = UINT64_MAX;
    return true;
}

/* The pid that the holder wrote into its lock file; 0 when it cannot be read. */
static long holder_of(int fd)
{
    char text[32];
    const ssize_t n = sys_pread(fd, text, sizeof text - 1, 0);
    if (n <= 0) return 0;
    text[n] = '\0';
    return strtol(text, NULL, 10);
}

/* Takes the lock on `fd` and signs it. */
static bool lock_and_sign(int fd, const char *folder, Err *err)
{
    if (sys_lock(fd) != 0) {
        if (errno != EWOULDBLOCK) return fail_folder(err, ERR_DISK, "lock the folder", folder, errno);
        const long pid = holder_of(fd);
        if (pid <= 0) return FAIL(err, ERR_DISK, "%s is in use by another process", folder);
        return FAIL(err, ERR_DISK, "%s is in use by process %ld; wait for it or choose another folder", folder, pid);
    }
    char text[32];
    const int length = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    errno = ENOSPC; /* a disk that takes only a part of it says nothing */
    if (sys_truncate(fd, 0) == 0 && sys_pwrite(fd, text, (size_t)length, 0) == length) return true;
    return fail_folder(err, ERR_DISK, "write the lock of", folder, errno);
}

bool file_lock_folder(File *out, const char *folder, Err *err)
{
    File f = {.fd = -1};
    TRY((f.path = path_join(folder, ".lock", err)) != NULL);
    f.fd = sys_open(AT_FDCWD, f.path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0666);
    if (f.fd < 0) {
        (void)fail_folder(err, ERR_DISK, "create", f.path, errno);
        goto fail;
    }
    f.open = true;
    TRY(lock_and_sign(f.fd, folder, err));
    *out = f;
    return true;
fail:
    file_close(&f);
    return false;
}
