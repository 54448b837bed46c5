/*
 * file.h - all access to files goes through here, so that every call can be made to fail in a test.
 *
 * Reading: regular files only (FIFOs, devices and folders are refused). Writing: short writes and EINTR are retried,
 * ENOSPC and EIO are ERR_DISK; after a failed fsync a file is discarded, never synced again.
 * Checkpoint protocol: file_write_begin into a temporary folder, fsync each file, fsync the folder, rename, fsync the
 * parent (file_commit_folder).
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct File {
    int fd; /* -1 when closed; a zeroed struct counts as closed (`open` tells) */
    bool open;
    uint64_t size; /* at opening */
    char *path;    /* owned; for messages */
    ErrCode code;  /* what failing to read it means; ERR_NONE: ERR_MODEL */
} File;

/* ERR_MODEL by default; `code` says what a missing or unreadable file means to the caller. */
bool file_open_read(File *out, const char *path, ErrCode code, Err *err) MUST_USE;
bool file_read_at(const File *f, uint64_t offset, void *to, size_t length, Err *err) MUST_USE;
void file_close(File *f);

/* Whole file, NUL-terminated, at most `limit` bytes; the caller frees *out with mem_free. */
bool file_read_all(char **out, size_t *length, const char *path, size_t limit, ErrCode code, Err *err) MUST_USE;

/* Read-only mapping of a whole file. */
typedef struct FileMap {
    const char *bytes; /* null for an empty file */
    size_t length;
} FileMap;
bool file_map(FileMap *out, const char *path, ErrCode code, Err *err) MUST_USE;
void file_unmap(FileMap *m);

/* Writing, created new (an existing file is replaced), mode 0666 & ~umask. Buffered by the caller. */
bool file_create(File *out, const char *path, Err *err) MUST_USE;
bool file_write(File *f, const void *bytes, size_t length, Err *err) MUST_USE;
bool file_write_at(File *f, uint64_t offset, const void *bytes, size_t length, Err *err) MUST_USE;
bool file_sync_close(File *f, Err *err) MUST_USE; /* fsync, close; ERR_DISK */

/* One small file: write to PATH.tmp, sync, rename, sync the folder. */
bool file_replace(const char *path, const void *bytes, size_t length, Err *err) MUST_USE;

/* Appends to a log (metrics.jsonl); no sync. */
bool file_append(const char *path, const void *bytes, size_t length, Err *err) MUST_USE;
bool file_truncate(const char *path, uint64_t length, Err *err) MUST_USE;

bool file_exists(const char *path);
bool file_in_folder(const char *folder, const char *name); /* false too when there is no memory to ask */
bool file_is_folder(const char *path);
bool file_make_folders(const char *path, Err *err) MUST_USE;         /* like mkdir -p */
bool file_copy(const char *to, const char *from, Err *err) MUST_USE; /* synced */
bool file_sync_folder(const char *path, Err *err) MUST_USE;
/* rename(from, to), replacing a file there, fsync(parent of to); the file was synced before. */
bool file_rename(const char *from, const char *to, Err *err) MUST_USE;
/* fsync(from), rename(from, to), fsync(parent of to). `to` must not exist. */
bool file_commit_folder(const char *from, const char *to, Err *err) MUST_USE;
bool file_remove(const char *path, Err *err) MUST_USE; /* a file; absent is fine */
/* A folder of ours with plain files and folders in it. Links are removed, never followed; PATH may be one. */
bool file_remove_tree(const char *path, Err *err) MUST_USE;
bool file_free_space(uint64_t *out, const char *path, Err *err) MUST_USE;

/* Names in a folder, sorted; the caller frees with file_list_free. */
typedef struct FileList {
    char **names;
    size_t count, capacity;
} FileList;
bool file_list(FileList *out, const char *folder, ErrCode code, Err *err) MUST_USE;
void file_list_free(FileList *list);

/* folder + "/" + name; the caller frees with mem_free. */
char *path_join(const char *folder, const char *name, Err *err) MUST_USE;

/* Exclusive lock on folder/.lock that dies with the process; false with ERR_DISK naming the holder's pid. */
bool file_lock_folder(File *out, const char *folder, Err *err) MUST_USE;

/*
 * Test hook: the n-th file operation of class `operation` from now on ("open", "read", "write", "fsync", "rename",
 * "mkdir", "stat", "unlink", "close", "lock", "any") fails with errno `error`; sticky: so do all later ones. error = -1: the
 * process kills itself with SIGKILL there, a write after half of its bytes. error = 0: a read or write transfers only
 * half of what was asked for. Null turns it off.
 */
void file_fail_at(const char *operation, uint64_t nth, int error, bool sticky);
uint64_t file_operation_count(void); /* so far, all classes */
/* Test hook: writes fail with ENOSPC once this many bytes were written; UINT64_MAX: off. */
void file_fail_after_bytes(uint64_t bytes);

#ifdef __cplusplus
}
#endif
