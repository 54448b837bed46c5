#include "data/vocab.h"

#include "base/hash.h"
#include "base/mem.h"

#include <string.h>

void vocab_free(Vocab *v)
{
    text_free(&v->blob);
    mem_free(v->entries);
    mem_free(v->slots);
    mem_free(v->by_id);
    *v = (Vocab){0};
}

static uint64_t hash_of(const char *text, size_t length)
{
    return hash_u64(text, length);
}

static void insert_slot(Vocab *v, uint64_t hash, uint32_t entry)
{
    size_t at = hash & (v->slot_count - 1);
    while (v->slots[at])
        at = (at + 1) & (v->slot_count - 1);
    v->slots[at] = entry + 1;
}

/* At most half of the slots are taken. */
static bool reserve_slots(Vocab *v, size_t count, Err *err)
{
    size_t slots = v->slot_count ? v->slot_count : 64;
    while (slots < 2 * count)
        slots *= 2;
    if (slots == v->slot_count) return true;
    uint32_t *fresh = mem_alloc(slots, sizeof *fresh, err);
    if (!fresh) return false;
    mem_free(v->slots);
    v->slots = fresh;
    v->slot_count = slots;
    for (size_t i = 0; i < v->count; i++)
        insert_slot(v, hash_of(vocab_text(v, &v->entries[i]), v->entries[i].length), (uint32_t)i);
    return true;
}

bool vocab_reserve(Vocab *v, size_t count, Err *err)
{
    if (count > VOCAB_TOKENS_MOST) {
        return FAIL(err, ERR_MODEL, "the vocabulary has %zu tokens; at most %d are supported", count,
                    VOCAB_TOKENS_MOST);
    }
    return mem_grow(&v->entries, &v->capacity, count, sizeof *v->entries, err) && reserve_slots(v, count, err);
}

static const VocabEntry *find_entry(const Vocab *v, uint64_t hash, const char *text, size_t length)
{
    if (!v->slot_count) return NULL;
    for (size_t at = hash & (v->slot_count - 1); v->slots[at]; at = (at + 1) & (v->slot_count - 1)) {
        const VocabEntry *e = &v->entries[v->slots[at] - 1];
        if (e->hash == (uint32_t)(hash >> 32) && e->length == length && memcmp(vocab_text(v, e), text, length) == 0) {
            return e;
        }
    }
    return NULL;
}

/* The id means this entry from now on. */
static bool set_id(Vocab *v, uint32_t entry, int32_t id, Err *err)
{
    const size_t need = (size_t)id + 1;
    if (!mem_grow(&v->by_id, &v->id_capacity, need, sizeof *v->by_id, err)) return false;
    if (need > v->id_count) memset(v->by_id + v->id_count, 0, (need - v->id_count) * sizeof *v->by_id);
    if (need > v->id_count) v->id_count = need;
    v->by_id[id] = entry + 1;
    return true;
}

bool vocab_add(Vocab *v, const char *text, size_t length, int64_t id, Err *err)
{
    char shown[80];
    if (length > VOCAB_TOKEN_LONGEST) {
        return FAIL(err, ERR_MODEL, "the token \"%s\" is longer than %d bytes",
                    text_printable(shown, sizeof shown, text, length), VOCAB_TOKEN_LONGEST);
    }
    if (id < 0 || id >= VOCAB_ID_MOST) {
        return FAIL(err, ERR_MODEL, "the token \"%s\" has the id %lld, which is outside 0..%d",
                    text_printable(shown, sizeof shown, text, length), (long long)id, VOCAB_ID_MOST - 1);
    }
    const uint64_t hash = hash_of(text, length);
    const VocabEntry *known = find_entry(v, hash, text, length);
    if (known) {
        v->entries[known - v->entries].id = (int32_t)id;
        return set_id(v, (uint32_t)(known - v->entries), (int32_t)id, err);
    }
    if (!vocab_reserve(v, v->count + 1, err)) return false;
    const size_t offset = v->blob.length;
    if (!text_add(&v->blob, text, length, err) || !text_add(&v->blob, "", 1, err)) return false;
    if (!set_id(v, (uint32_t)v->count, (int32_t)id, err)) return false;
    v->entries[v->count] = (VocabEntry){
        .offset = offset,
        .length = (uint32_t)length,
        .id = (int32_t)id,
        .hash = (uint32_t)(hash >> 32),
    };
    insert_slot(v, hash, (uint32_t)v->count++);
    return true;
}

int32_t vocab_find(const Vocab *v, const char *text, size_t length)
{
    const VocabEntry *e = find_entry(v, hash_of(text, length), text, length);
    return e ? e->id : -1;
}

int32_t vocab_find_joined(const Vocab *v, char *joined, const char *a, size_t a_length, const char *b, size_t b_length)
{
    if (a_length > VOCAB_TOKEN_LONGEST || b_length > VOCAB_TOKEN_LONGEST - a_length) return -1;
    memcpy(joined, a, a_length);
    memcpy(joined + a_length, b, b_length);
    return vocab_find(v, joined, a_length + b_length);
}

const VocabEntry *vocab_entry(const Vocab *v, int32_t id)
{
    if (id < 0 || (size_t)id >= v->id_count || !v->by_id[id]) return NULL;
    return &v->entries[v->by_id[id] - 1];
}
