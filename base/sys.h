/*
 * sys.h - system calls on files, each behind the fault hook of file.h. Only base/file*.c include this.
 *
 * Same results and errno as the call they are named after, EINTR included. A fault that is due sets errno instead of
 * calling, kills the process, or (reads and writes) transfers half of the bytes. Closing always closes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(enum, name in file_fail_at) */
#define SYS_OPERATIONS(X)                                                                                              \
    X(SYS_OPEN, "open")                                                                                                \
    X(SYS_READ, "read") /* also mmap */                                                                                \
    X(SYS_WRITE, "write")                                                                                              \
    X(SYS_FSYNC, "fsync")                                                                                              \
    X(SYS_RENAME, "rename")                                                                                            \
    X(SYS_MKDIR, "mkdir")                                                                                              \
    X(SYS_STAT, "stat")                                                                                                \
    X(SYS_UNLINK, "unlink")                                                                                            \
    X(SYS_CLOSE, "close") /* of files that were written */                                                             \
    X(SYS_LOCK, "lock")

int sys_open(int folder, const char *path, int flags, mode_t mode); /* openat, always O_CLOEXEC */
ssize_t sys_pread(int fd, void *to, size_t length, off_t offset);
ssize_t sys_pwrite(int fd, const void *bytes, size_t length, off_t offset); /* offset -1: write */
int sys_truncate(int fd, off_t length);                                     /* counts as a write */
int sys_fsync(int fd);
int sys_rename(const char *from, const char *to, bool replace); /* without replace: EEXIST when `to` is there */
int sys_mkdir(const char *path, mode_t mode);
int sys_unlink(int folder, const char *name, int flags);
int sys_stat(int fd, struct stat *out);
void *sys_map(int fd, size_t length); /* read-only, private; null on failure */
int sys_lock(int fd);                 /* flock, exclusive, without waiting */
int sys_close(int fd);

#ifdef __cplusplus
}
#endif
