#include "base/file.h"

#include "base/check.h"
#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    NAME_SHOWN = 1024,     /* bytes of a path in a message */
    CHUNK_BYTES = 1 << 20, /* one step of a copy */
};

static const char *reason(int error)
{
    const char *text = strerrordesc_np(error);
    return text ? text : "unknown error";
}

/* "could not VERB PATH: why"; always false. */
static bool fail_call(Err *err, ErrCode code, const char *verb, const char *path, int error)
{
    char shown[NAME_SHOWN];
    text_printable(shown, sizeof shown, path, strlen(path));
    if (error == ENOENT) return FAIL(err, code, "could not %s %s: it does not exist", verb, shown);
    if (error == ENOSPC || error == EDQUOT) {
        return FAIL(err, code, "could not %s %s: no space left; free some or choose another folder", verb, shown);
    }
    return FAIL(err, code, "could not %s %s: %s", verb, shown, reason(error));
}

/* Only regular files: reading a FIFO or a device could wait for ever. */
static bool check_regular(const struct stat *st, const char *path, ErrCode code, Err *err)
{
    if (S_ISREG(st->st_mode)) return true;
    const char *kind = S_ISDIR(st->st_mode)    ? "a folder"
                       : S_ISFIFO(st->st_mode) ? "a pipe"
                       : S_ISSOCK(st->st_mode) ? "a socket"
                                               : "a device";
    char shown[NAME_SHOWN];
    return FAIL(err, code, "%s is %s, not a file", text_printable(shown, sizeof shown, path, strlen(path)), kind);
}

/* O_NONBLOCK, so that a FIFO without a writer cannot hold us before fstat tells what it is. */
static int open_retrying(const char *path, int flags, mode_t mode)
{
    int fd;
    do {
        fd = sys_open(AT_FDCWD, path, flags | O_NONBLOCK | O_NOCTTY, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Takes over `fd`; the struct is complete or the descriptor closed. */
static bool file_adopt(File *out, int fd, const char *path, ErrCode code, Err *err)
{
    File f = {.fd = fd, .open = true, .code = code};
    struct stat st;
    if (sys_stat(fd, &st) != 0) {
        (void)fail_call(err, code, "examine", path, errno);
        goto fail;
    }
    TRY(check_regular(&st, path, code, err));
    TRY((f.path = mem_copy_text(path, err)) != NULL);
    f.size = (uint64_t)st.st_size;
    *out = f;
    return true;
fail:
    close(fd);
    return false;
}

bool file_open_read(File *out, const char *path, ErrCode code, Err *err)
{
    const int fd = open_retrying(path, O_RDONLY, 0);
    if (fd < 0) return fail_call(err, code, "open", path, errno);
    return file_adopt(out, fd, path, code, err);
}

/* Reads up to `length` bytes, fewer only at the end of the file; -1 with errno set. */
static ssize_t read_full(int fd, char *to, size_t length, uint64_t offset)
{
    size_t done = 0;
    while (done < length) {
        const ssize_t n = sys_pread(fd, to + done, length - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

bool file_read_at(const File *f, uint64_t offset, void *to, size_t length, Err *err)
{
    CHECK(f->open);
    const ErrCode code = f->code ? f->code : ERR_MODEL;
    char shown[NAME_SHOWN];
    text_printable(shown, sizeof shown, f->path, strlen(f->path));
    uint64_t end;
    if (!checked_add(offset, length, &end) || end > f->size) {
        return FAIL(err, code, "%s ends at byte %llu, but bytes %llu to %llu were asked for", shown,
                    (unsigned long long)f->size, (unsigned long long)offset, (unsigned long long)end);
    }
    const ssize_t got = read_full(f->fd, to, length, offset);
    if (got < 0) return fail_call(err, code, "read", f->path, errno);
    if ((size_t)got < length) {
        return FAIL(err, code, "%s became shorter while it was being read; was it replaced?", shown);
    }
    return true;
}

void file_close(File *f)
{
    if (f->open) close(f->fd);
    mem_free(f->path);
    *f = (File){.fd = -1};
}

static bool fail_too_big(Err *err, ErrCode code, const char *path, size_t limit)
{
    char shown[NAME_SHOWN];
    return FAIL(err, code, "%s is larger than the %zu bytes that such a file may have",
                text_printable(shown, sizeof shown, path, strlen(path)), limit);
}

/* The size of a file in /proc is 0, so its end is where reading stops. */
static bool read_to_end(char **out, size_t *length, const File *f, size_t limit, ErrCode code, Err *err)
{
    char *bytes = NULL;
    size_t capacity = 0;
    size_t used = 0;
    for (;;) {
        const size_t step = f->size > used ? (size_t)f->size - used : 4096;
        TRY(mem_grow(&bytes, &capacity, used + step + 1, 1, err));
        const ssize_t n = read_full(f->fd, bytes + used, capacity - used - 1, used);
        if (n < 0) {
            (void)fail_call(err, code, "read", f->path, errno);
            goto fail;
        }
        used += (size_t)n;
        if (used > limit) {
            (void)fail_too_big(err, code, f->path, limit);
            goto fail;
        }
        if (used < capacity - 1) break;
    }
    if (f->size > 0 && used != f->size) {
        (void)FAIL(err, code, "%s changed while it was being read", f->path);
        goto fail;
    }
    bytes[used] = '\0';
    *out = bytes;
    *length = used;
    return true;
fail:
    mem_free(bytes);
    return false;
}

bool file_read_all(char **out, size_t *length, const char *path, size_t limit, ErrCode code, Err *err)
{
    File f;
    if (!file_open_read(&f, path, code, err)) return false;
    const bool ok =
        f.size > limit ? fail_too_big(err, code, path, limit) : read_to_end(out, length, &f, limit, code, err);
    file_close(&f);
    return ok;
}

bool file_map(FileMap *out, const char *path, ErrCode code, Err *err)
{
    File f;
    if (!file_open_read(&f, path, code, err)) return false;
    FileMap m = {.length = (size_t)f.size};
    bool ok = true;
    if (m.length > 0) {
        m.bytes = sys_map(f.fd, m.length);
        if (!m.bytes) ok = fail_call(err, code, "map", path, errno);
    }
    file_close(&f);
    if (ok) *out = m;
    return ok;
}

void file_unmap(FileMap *m)
{
    if (m->bytes) munmap((void *)(uintptr_t)m->bytes, m->length);
    *m = (FileMap){0};
}

/* A fresh inode, so that nobody who has the old file open or mapped sees it change; devices and folders stay. */
static bool make_way(const char *path, Err *err)
{
    struct stat st;
    if (lstat(path, &st) != 0) return errno == ENOENT || fail_call(err, ERR_DISK, "examine", path, errno);
    if (!S_ISLNK(st.st_mode) && !check_regular(&st, path, ERR_DISK, err)) return false;
    if (sys_unlink(AT_FDCWD, path, 0) != 0 && errno != ENOENT) {
        return fail_call(err, ERR_DISK, "replace", path, errno);
    }
    return true;
}

bool file_create(File *out, const char *path, Err *err)
{
    if (!make_way(path, err)) return false;
    const int fd = open_retrying(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
    if (fd < 0) return fail_call(err, ERR_DISK, "create", path, errno);
    if (file_adopt(out, fd, path, ERR_DISK, err)) return true;
    sys_unlink(AT_FDCWD, path, 0);
    return false;
}

/* offset -1: where the file stands */
static bool write_full(File *f, int64_t offset, const char *from, size_t length, Err *err)
{
    CHECK(f->open);
    while (length > 0) {
        const ssize_t n = sys_pwrite(f->fd, from, length, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_call(err, ERR_DISK, "write", f->path, errno);
        from += n;
        length -= (size_t)n;
        if (offset >= 0) offset += n;
    }
    return true;
}

bool file_write(File *f, const void *bytes, size_t length, Err *err)
{
    return write_full(f, -1, bytes, length, err);
}

bool file_write_at(File *f, uint64_t offset, const void *bytes, size_t length, Err *err)
{
    CHECK(offset <= INT64_MAX);
    return write_full(f, (int64_t)offset, bytes, length, err);
}

bool file_sync_close(File *f, Err *err)
{
    CHECK(f->open);
    int rc;
    do {
        rc = sys_fsync(f->fd);
    } while (rc != 0 && errno == EINTR);
    bool ok = rc == 0 || fail_call(err, ERR_DISK, "sync", f->path, errno);
    if (sys_close(f->fd) != 0 && errno != EINTR && ok) ok = fail_call(err, ERR_DISK, "close", f->path, errno);
    f->open = false;
    file_close(f);
    return ok;
}

/* The folder that holds `path`, which the caller frees. */
static char *parent_of(const char *path, Err *err)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--; /* "a/b/" lies in "a" */
    while (length > 0 && path[length - 1] != '/')
        length--;
    while (length > 1 && path[length - 1] == '/')
        length--;
    return length ? mem_copy_bytes(path, length, err) : mem_copy_text(".", err);
}

bool file_sync_folder(const char *path, Err *err)
{
    const int fd = open_retrying(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return fail_call(err, ERR_DISK, "open", path, errno);
    int rc;
    do {
        rc = sys_fsync(fd);
    } while (rc != 0 && errno == EINTR);
    /* Some network file systems cannot sync folders and say EINVAL; there is nothing more that we could do. */
    const bool ok = rc == 0 || errno == EINVAL || fail_call(err, ERR_DISK, "sync", path, errno);
    close(fd);
    return ok;
}

static bool sync_parent(const char *path, Err *err)
{
    char *parent = parent_of(path, err);
    const bool ok = parent && file_sync_folder(parent, err);
    mem_free(parent);
    return ok;
}

bool file_rename(const char *from, const char *to, Err *err)
{
    if (sys_rename(from, to, true) != 0) return fail_call(err, ERR_DISK, "replace", to, errno);
    return sync_parent(to, err);
}

bool file_replace(const char *path, const void *bytes, size_t length, Err *err)
{
    Text temporary = {0};
    File f = {.fd = -1};
    bool created = false;
    TRY(text_add_z(&temporary, path, err) && text_add_z(&temporary, ".tmp", err));
    TRY(file_create(&f, temporary.bytes, err));
    created = true;
    TRY(file_write(&f, bytes, length, err));
    TRY(file_sync_close(&f, err));
    TRY(file_rename(temporary.bytes, path, err));
    text_free(&temporary);
    return true;
fail:
    file_close(&f);
    if (created) sys_unlink(AT_FDCWD, temporary.bytes, 0);
    text_free(&temporary);
    return false;
}

bool file_append(const char *path, const void *bytes, size_t length, Err *err)
{
    const int fd = open_retrying(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
    if (fd < 0) return fail_call(err, ERR_DISK, "open", path, errno);
    File f;
    if (!file_adopt(&f, fd, path, ERR_DISK, err)) return false;
    const bool ok = file_write(&f, bytes, length, err);
    if (!ok && sys_truncate(f.fd, (off_t)f.size) != 0) err_note(err, "a half line may be left");
    file_close(&f);
    return ok;
}

bool file_truncate(const char *path, uint64_t length, Err *err)
{
    const int fd = open_retrying(path, O_WRONLY, 0);
    if (fd < 0) return fail_call(err, ERR_DISK, "open", path, errno);
    File f;
    if (!file_adopt(&f, fd, path, ERR_DISK, err)) return false;
    bool ok = length <= INT64_MAX || FAIL(err, ERR_DISK, "could not cut %s: the length is out of range", path);
    if (ok && sys_truncate(f.fd, (off_t)length) != 0) ok = fail_call(err, ERR_DISK, "cut", path, errno);
    file_close(&f);
    return ok;
}

bool file_copy(const char *to, const char *from, Err *err)
{
    File in = {.fd = -1};
    File out = {.fd = -1};
    bool created = false;
    char *chunk = NULL;
    TRY(file_open_read(&in, from, ERR_DISK, err));
    TRY((chunk = mem_alloc(CHUNK_BYTES, 1, err)) != NULL);
    TRY(file_create(&out, to, err));
    created = true;
    for (uint64_t at = 0; at < in.size; at += CHUNK_BYTES) {
        const size_t step = in.size - at < CHUNK_BYTES ? (size_t)(in.size - at) : CHUNK_BYTES;
        TRY(file_read_at(&in, at, chunk, step, err));
        TRY(file_write(&out, chunk, step, err));
    }
    TRY(file_sync_close(&out, err));
    file_close(&in);
    mem_free(chunk);
    return true;
fail:
    file_close(&in);
    file_close(&out);
    if (created) sys_unlink(AT_FDCWD, to, 0);
    mem_free(chunk);
    return false;
}

bool file_remove(const char *path, Err *err)
{
    if (sys_unlink(AT_FDCWD, path, 0) == 0 || errno == ENOENT) return true;
    return fail_call(err, ERR_DISK, "remove", path, errno);
}

bool file_commit_folder(const char *from, const char *to, Err *err)
{
    if (!file_sync_folder(from, err)) return false;
    if (sys_rename(from, to, false) != 0) return fail_call(err, ERR_DISK, "rename a folder to", to, errno);
    return sync_parent(to, err);
}
