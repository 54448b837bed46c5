#include "base/sys.h"

#include "base/check.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

typedef enum SysOperation {
#define X(operation, name) operation,
    SYS_OPERATIONS(X)
#undef X
        SYS_COUNT
} SysOperation;

enum { KILL_SELF = -1, TRANSFER_HALF = 0 }; /* values of `error` beside errno codes */

/* What the hook was told to do; `armed` keeps the common case at one load. */
static atomic_uint_fast64_t operations;
static atomic_bool armed;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    int operation; /* SYS_COUNT: any */
    uint64_t left; /* 0: no fault pending */
    int error;
    bool sticky;
    bool limited;
    uint64_t bytes_left; /* when limited */
} fault;

void file_fail_at(const char *operation, uint64_t nth, int error, bool sticky)
{
    static const char *const names[] = {
#define X(operation, name) name,
        SYS_OPERATIONS(X)
#undef X
            "any"};
    pthread_mutex_lock(&mutex);
    fault.left = 0;
    for (int i = 0; operation && i <= SYS_COUNT; i++) {
        if (strcmp(operation, names[i]) != 0) continue;
        fault.operation = i;
        fault.left = nth;
        fault.error = error;
        fault.sticky = sticky;
    }
    CHECK(!operation || nth == 0 || fault.left == nth);
    atomic_store(&armed, fault.left > 0 || fault.limited);
    pthread_mutex_unlock(&mutex);
}

void file_fail_after_bytes(uint64_t bytes)
{
    pthread_mutex_lock(&mutex);
    fault.limited = bytes != UINT64_MAX;
    fault.bytes_left = bytes;
    atomic_store(&armed, fault.left > 0 || fault.limited);
    pthread_mutex_unlock(&mutex);
}

uint64_t file_operation_count(void)
{
    return atomic_load(&operations);
}

/* Whether a fault is due now; *error says which. */
static bool fault_due(SysOperation operation, int *error)
{
    atomic_fetch_add(&operations, 1);
    if (!atomic_load(&armed)) return false;
    pthread_mutex_lock(&mutex);
    bool due = false;
    if (fault.left > 0 && (fault.operation == SYS_COUNT || fault.operation == (int)operation)) {
        due = fault.left == 1;
        if (!due || !fault.sticky) fault.left--;
        *error = fault.error;
    }
    pthread_mutex_unlock(&mutex);
    return due;
}

/* For operations that either happen or not: true when this one must not. */
static bool refused(SysOperation operation)
{
    int error = 0;
    if (!fault_due(operation, &error) || error == TRANSFER_HALF) return false;
    if (error == KILL_SELF) raise(SIGKILL);
    errno = error;
    return true;
}

int sys_open(int folder, const char *path, int flags, mode_t mode)
{
    return refused(SYS_OPEN) ? -1 : openat(folder, path, flags | O_CLOEXEC, mode);
}

ssize_t sys_pread(int fd, void *to, size_t length, off_t offset)
{
    int error = 0;
    if (fault_due(SYS_READ, &error)) {
        if (error == KILL_SELF) raise(SIGKILL);
        if (error != TRANSFER_HALF) {
            errno = error;
            return -1;
        }
        length = (length + 1) / 2;
    }
    return pread(fd, to, length, offset);
}

/* How many of `length` bytes the disk of file_fail_after_bytes still takes. */
static size_t disk_takes(size_t length)
{
    if (!atomic_load(&armed)) return length;
    pthread_mutex_lock(&mutex);
    if (fault.limited) {
        if (length > fault.bytes_left) length = (size_t)fault.bytes_left;
        fault.bytes_left -= length;
    }
    pthread_mutex_unlock(&mutex);
    return length;
}

static ssize_t write_to(int fd, const void *bytes, size_t length, off_t offset)
{
    return offset < 0 ? write(fd, bytes, length) : pwrite(fd, bytes, length, offset);
}

ssize_t sys_pwrite(int fd, const void *bytes, size_t length, off_t offset)
{
    int error = 0;
    if (fault_due(SYS_WRITE, &error)) {
        if (error == KILL_SELF) { /* half of the bytes are out: a torn write */
            if (write_to(fd, bytes, length / 2, offset) < 0) perror("write");
            raise(SIGKILL);
        }
        if (error != TRANSFER_HALF) {
            errno = error;
            return -1;
        }
        length = (length + 1) / 2;
    }
    const size_t taken = disk_takes(length);
    if (taken == 0 && length > 0) {
        errno = ENOSPC;
        return -1;
    }
    return write_to(fd, bytes, taken, offset);
}

int sys_truncate(int fd, off_t length)
{
    return refused(SYS_WRITE) ? -1 : ftruncate(fd, length);
}

int sys_fsync(int fd)
{
    return refused(SYS_FSYNC) ? -1 : fsync(fd);
}

int sys_rename(const char *from, const char *to, bool replace)
{
    if (refused(SYS_RENAME)) return -1;
    if (replace) return rename(from, to);
    const int rc = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    if (rc == 0 || (errno != EINVAL && errno != ENOSYS)) return rc;
    struct stat st; /* a file system without RENAME_NOREPLACE: our lock on the folder keeps others out */
    if (lstat(to, &st) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

int sys_mkdir(const char *path, mode_t mode)
{
    return refused(SYS_MKDIR) ? -1 : mkdir(path, mode);
}

int sys_unlink(int folder, const char *name, int flags)
{
    return refused(SYS_UNLINK) ? -1 : unlinkat(folder, name, flags);
}

int sys_stat(int fd, struct stat *out)
{
    return refused(SYS_STAT) ? -1 : fstat(fd, out);
}

void *sys_map(int fd, size_t length)
{
    if (refused(SYS_READ)) return NULL;
    void *bytes = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
    return bytes == MAP_FAILED ? NULL : bytes;
}

int sys_lock(int fd)
{
    return refused(SYS_LOCK) ? -1 : flock(fd, LOCK_EX | LOCK_NB);
}

int sys_close(int fd)
{
    const bool fails = refused(SYS_CLOSE);
    const int error = errno;
    const int rc = close(fd);
    if (!fails) return rc;
    errno = error;
    return -1;
}
