#include "data/token_cache.h"

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/text.h"

#include <stddef.h>
#include <string.h>

enum { FORMAT_VERSION = 1 };

typedef struct TokenHeader {
    char magic[8];
    uint32_t version, reserved;
    char key[32];
    uint64_t length; /* of the whole block */
    uint64_t samples_at;
    int64_t count;
    int64_t stats[11];    /* DatasetStats without from_cache, in its order */
    uint64_t body_hash;   /* of everything behind the header */
    uint64_t header_hash; /* of the header up to here */
} TokenHeader;

_Static_assert(sizeof(TokenHeader) == 176, "the header is part of the file format");
_Static_assert(sizeof(TokenSample) == 32, "the sample table is part of the file format");
_Static_assert(offsetof(DatasetStats, from_cache) == sizeof(int64_t) * 11, "DatasetStats is stored whole");

static const char magic[8] = "QLTOKENS";

void token_store_free(TokenStore *s)
{
    mem_free(s->owned);
    mem_free(s->building);
    file_unmap(&s->map);
    *s = (TokenStore){0};
}

static bool append(TokenStore *s, const void *bytes, size_t length, Err *err)
{
    if (!mem_grow(&s->owned, &s->capacity, s->length + length, 1, err)) return false;
    if (length) memcpy(s->owned + s->length, bytes, length);
    s->length += length;
    s->block = s->owned;
    return true;
}

bool token_store_begin(TokenStore *s, Err *err)
{
    static const TokenHeader blank;
    *s = (TokenStore){0};
    return append(s, &blank, sizeof blank, err);
}

static uint32_t count_trained(const int32_t *labels, int64_t tokens)
{
    uint32_t trained = 0;
    for (int64_t k = 0; k < tokens; k++)
        trained += labels[k] != TARGET_NONE;
    return trained;
}

bool token_store_add(TokenStore *s, TokenSample from, const int32_t *ids, const int32_t *labels, int64_t tokens,
                     Err *err)
{
    CHECK(tokens > 0 && tokens <= INT32_MAX && labels[0] == TARGET_NONE);
    const size_t need = (size_t)s->count + 1;
    if (!mem_grow(&s->building, &s->building_capacity, need, sizeof *s->building, err)) return false;
    from.offset = s->length;
    from.tokens = (uint32_t)tokens;
    from.trained = count_trained(labels, tokens);
    if (!append(s, ids, (size_t)tokens * sizeof *ids, err)) return false;
    if (!append(s, labels, (size_t)tokens * sizeof *labels, err)) return false;
    s->building[s->count++] = from;
    s->samples = s->building;
    s->stats.samples++;
    s->stats.tokens += tokens;
    s->stats.trained_tokens += from.trained;
    return true;
}

/* The table stands behind an even number of int32, so it is 8-byte aligned like the header. */
bool token_store_finish(TokenStore *s, const char *key, Err *err)
{
    const uint64_t samples_at = s->length;
    if (!append(s, s->building, (size_t)s->count * sizeof *s->building, err)) return false;
    TokenHeader h = {.version = FORMAT_VERSION, .length = s->length, .samples_at = samples_at, .count = s->count};
    memcpy(h.magic, magic, sizeof magic);
    memcpy(h.key, key, sizeof h.key);
    memcpy(h.stats, &s->stats, sizeof h.stats);
    h.body_hash = hash_u64(s->owned + sizeof h, s->length - sizeof h);
    h.header_hash = hash_u64(&h, offsetof(TokenHeader, header_hash));
    memcpy(s->owned, &h, sizeof h);
    s->block = s->owned;
    s->samples = (const TokenSample *)(const void *)(s->owned + samples_at);
    mem_free(s->building);
    s->building = NULL;
    return true;
}

Sample token_store_sample(const TokenStore *s, int64_t index)
{
    CHECK(index >= 0 && index < s->count);
    const TokenSample *t = &s->samples[index];
    const int32_t *ids = (const int32_t *)(const void *)(s->block + t->offset);
    return (Sample){.ids = ids, .labels = ids + t->tokens, .tokens = t->tokens};
}

char *token_cache_path(const char *folder, const char *key, Err *err)
{
    Text path = {0};
    if (text_format(&path, err, "%s/%s.tokens", folder, key)) return path.bytes;
    text_free(&path);
    return NULL;
}

/* Null when the file is sound, else what is wrong with it. Checksums guard against chance, not against intent; still
 * every offset is checked, so that a made-up file cannot lead outside of the mapping. */
static const char *damage(const FileMap *map, const char *key)
{
    if (map->length < sizeof(TokenHeader)) return "it is too short";
    TokenHeader h;
    memcpy(&h, map->bytes, sizeof h);
    if (memcmp(h.magic, magic, sizeof magic) || h.version != FORMAT_VERSION) return "it has another format";
    if (h.header_hash != hash_u64(&h, offsetof(TokenHeader, header_hash))) return "its header is damaged";
    if (memcmp(h.key, key, sizeof h.key)) return "it belongs to other data";
    if (h.length != map->length) return "it is cut short";
    uint64_t table = 0;
    uint64_t end = 0;
    if (h.count <= 0 || !checked_mul((uint64_t)h.count, sizeof(TokenSample), &table) ||
        !checked_add(h.samples_at, table, &end) || end != map->length || h.samples_at % 8) {
        return "its table is damaged";
    }
    if (h.body_hash != hash_u64(map->bytes + sizeof h, map->length - sizeof h)) return "its checksum is wrong";
    const TokenSample *samples = (const TokenSample *)(const void *)(map->bytes + h.samples_at);
    for (int64_t i = 0; i < h.count; i++) {
        const TokenSample *t = &samples[i];
        const uint64_t bytes = (uint64_t)t->tokens * 2 * sizeof(int32_t);
        if (t->offset < sizeof h || t->offset % 4 || t->tokens == 0 || !checked_add(t->offset, bytes, &end) ||
            end > h.samples_at) {
            return "its table is damaged";
        }
    }
    return NULL;
}

static void adopt(TokenStore *s, FileMap map)
{
    TokenHeader h;
    memcpy(&h, map.bytes, sizeof h);
    token_store_free(s);
    s->map = map;
    s->block = map.bytes;
    s->length = map.length;
    s->count = h.count;
    s->samples = (const TokenSample *)(const void *)(map.bytes + h.samples_at);
    memcpy(&s->stats, h.stats, sizeof h.stats);
}

bool token_cache_load(TokenStore *out, bool *found, const char *path, const char *key, Err *err)
{
    FileMap map = {0};
    Err fault = {0};
    *found = false;
    if (!file_exists(path)) return true;
    if (!file_map(&map, path, ERR_DATA, &fault)) {
        if (fault.code == ERR_MEMORY) return FAIL(err, ERR_MEMORY, "%s", fault.text);
        log_warn("the token cache could not be read and is built again: %s", fault.text);
        return true;
    }
    const char *why = damage(&map, key);
    if (why) {
        log_warn("the token cache %s is built again: %s", path, why);
        file_unmap(&map);
        return true;
    }
    adopt(out, map);
    out->stats.from_cache = true;
    *found = true;
    return true;
}

bool token_cache_save(TokenStore *s, const char *folder, const char *path, Err *err)
{
    FileMap map = {0};
    if (!file_make_folders(folder, err)) return false;
    if (!file_replace(path, s->owned, s->length, err)) return false;
    if (!file_map(&map, path, ERR_DISK, err)) return false;
    /* Pages of a file can be dropped when memory is short; those of a heap block cannot. */
    if (map.length == s->length)
        adopt(s, map);
    else
        file_unmap(&map);
    return true;
}
