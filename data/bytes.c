#include "data/bytes.h"

#include "base/file.h"
#include "base/mem.h"

#include <zlib.h>

enum {
    INPUT_BYTES = 1 << 16,
    GZIP_BITS = 15 + 16, /* largest window, gzip header required */
    GROWTH_MAX = 200,
    GROWTH_FREE = 64 << 20 /* small files may grow as they like */
};

struct ByteStream {
    File file;
    uint64_t at; /* bytes taken from the file */
    bool gzip, member_open;
    z_stream z;
    uint64_t produced;
    unsigned char input[INPUT_BYTES];
};

static void *zlib_alloc(void *opaque, unsigned count, unsigned size)
{
    (void)opaque;
    return mem_alloc(count, size, NULL);
}

static void zlib_free(void *opaque, void *block)
{
    (void)opaque;
    mem_free(block);
}

/* file_read_at takes whatever it reads for a part of the model. */
static bool read_at(const ByteStream *s, uint64_t at, void *to, size_t size, Err *err)
{
    if (file_read_at(&s->file, at, to, size, err)) return true;
    if (err->code == ERR_MODEL) err->code = ERR_DATA;
    return false;
}

static bool fill(ByteStream *s, void *to, size_t size, size_t *got, Err *err)
{
    const uint64_t left = s->file.size - s->at;
    *got = left < size ? (size_t)left : size;
    if (*got == 0) return true;
    if (!read_at(s, s->at, to, *got, err)) return false;
    s->at += *got;
    return true;
}

bool byte_stream_open(ByteStream **out, const char *path, Err *err)
{
    unsigned char magic[2] = {0};
    ByteStream *s = mem_alloc(1, sizeof *s, err);
    if (!s) return false;
    TRY(file_open_read(&s->file, path, ERR_DATA, err));
    if (s->file.size >= 2) TRY(read_at(s, 0, magic, sizeof magic, err));
    if (magic[0] == 0x1F && magic[1] == 0x8B) {
        s->z.zalloc = zlib_alloc;
        s->z.zfree = zlib_free;
        if (inflateInit2(&s->z, GZIP_BITS) != Z_OK) {
            (void)FAIL(err, ERR_MEMORY, "out of host memory while opening %s", path);
            goto fail;
        }
        s->gzip = s->member_open = true;
    }
    *out = s;
    return true;
fail:
    byte_stream_close(s);
    return false;
}

void byte_stream_close(ByteStream *s)
{
    if (!s) return;
    if (s->gzip) inflateEnd(&s->z);
    file_close(&s->file);
    mem_free(s);
}

static bool refill(ByteStream *s, Err *err)
{
    size_t got = 0;
    if (s->z.avail_in > 0) return true;
    if (!fill(s, s->input, sizeof s->input, &got, err)) return false;
    s->z.next_in = s->input;
    s->z.avail_in = (unsigned)got;
    return true;
}

static bool check_growth(const ByteStream *s, Err *err)
{
    if (s->produced <= GROWTH_FREE || s->produced / GROWTH_MAX <= s->at) return true;
    return FAIL(err, ERR_DATA, "%s: unpacks to more than %d times its size; unpack it yourself if that is right",
                s->file.path, GROWTH_MAX);
}

/* A member has ended: is there another one, or only padding? */
static bool next_member(ByteStream *s, bool *end, Err *err)
{
    *end = false;
    if (!refill(s, err)) return false;
    while (s->z.avail_in > 0 && *s->z.next_in == 0) {
        s->z.next_in++;
        s->z.avail_in--;
        if (!refill(s, err)) return false;
    }
    if (s->z.avail_in == 0) {
        *end = true;
        return true;
    }
    if (inflateReset2(&s->z, GZIP_BITS) != Z_OK) return FAIL(err, ERR_DATA, "%s: gzip data is damaged", s->file.path);
    s->member_open = true;
    return true;
}

static bool inflate_some(ByteStream *s, char *to, size_t size, size_t *got, Err *err)
{
    *got = 0;
    while (*got == 0) {
        bool end = false;
        if (!s->member_open && !next_member(s, &end, err)) return false;
        if (end) return true;
        if (!refill(s, err)) return false;
        if (s->z.avail_in == 0) return FAIL(err, ERR_DATA, "%s: the gzip data ends too early", s->file.path);
        s->z.next_out = (unsigned char *)to;
        s->z.avail_out = size > UINT32_MAX ? UINT32_MAX : (unsigned)size;
        const unsigned room = s->z.avail_out;
        const int status = inflate(&s->z, Z_NO_FLUSH);
        *got = room - s->z.avail_out;
        s->produced += *got;
        if (status == Z_STREAM_END) {
            s->member_open = false;
        } else if (status == Z_MEM_ERROR) {
            return FAIL(err, ERR_MEMORY, "out of host memory while unpacking %s", s->file.path);
        } else if (status != Z_OK && status != Z_BUF_ERROR) {
            return FAIL(err, ERR_DATA, "%s: gzip data is damaged: %s", s->file.path, s->z.msg ? s->z.msg : "no reason");
        }
    }
    return check_growth(s, err);
}

bool byte_stream_read(ByteStream *s, char *to, size_t size, size_t *got, Err *err)
{
    return s->gzip ? inflate_some(s, to, size, got, err) : fill(s, to, size, got, err);
}
