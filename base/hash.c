#include "base/hash.h"

#include "base/file.h"
#include "base/mem.h"

#include <stdio.h>
#include <xxhash.h>

enum { CHUNK_BYTES = 1 << 20 };

struct Hash {
    XXH3_state_t *state;
};

/* The canonical form: big-endian, as `xxhsum -H128` prints it. */
static void write_digits(XXH128_hash_t hash, char text[HASH_TEXT])
{
    snprintf(text, HASH_TEXT, "%016llx%016llx", (unsigned long long)hash.high64, (unsigned long long)hash.low64);
}

bool hash_create(Hash **out, Err *err)
{
    Hash *h = mem_alloc(1, sizeof *h, err);
    if (!h) return false;
    h->state = XXH3_createState();
    if (!h->state || XXH3_128bits_reset(h->state) != XXH_OK) {
        XXH3_freeState(h->state);
        mem_free(h);
        return FAIL(err, ERR_MEMORY, "out of host memory: could not get the state of a hash");
    }
    *out = h;
    return true;
}

void hash_add(Hash *h, const void *bytes, size_t length)
{
    if (length) XXH3_128bits_update(h->state, bytes, length);
}

void hash_finish(Hash *h, char text[HASH_TEXT])
{
    write_digits(XXH3_128bits_digest(h->state), text);
    XXH3_freeState(h->state);
    mem_free(h);
}

void hash_bytes(const void *bytes, size_t length, char text[HASH_TEXT])
{
    write_digits(XXH3_128bits(bytes, length), text);
}

uint64_t hash_u64(const void *bytes, size_t length)
{
    return XXH3_64bits(bytes, length);
}

bool hash_file(const char *path, ErrCode code, char text[HASH_TEXT], Err *err)
{
    File f = {.fd = -1};
    Hash *h = NULL;
    char *chunk = NULL;
    char unused[HASH_TEXT];
    TRY(file_open_read(&f, path, code, err));
    TRY((chunk = mem_alloc(CHUNK_BYTES, 1, err)) != NULL);
    TRY(hash_create(&h, err));
    for (uint64_t at = 0; at < f.size; at += CHUNK_BYTES) {
        const size_t step = f.size - at < CHUNK_BYTES ? (size_t)(f.size - at) : CHUNK_BYTES;
        TRY(file_read_at(&f, at, chunk, step, err));
        hash_add(h, chunk, step);
    }
    hash_finish(h, text);
    mem_free(chunk);
    file_close(&f);
    return true;
fail:
    if (h) hash_finish(h, unused);
    mem_free(chunk);
    file_close(&f);
    return false;
}
