#include "base/gguf.h"

#include "base/mem.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>

enum {
    KEYS_MAX = 65536,
    TENSORS_MAX = 200000,
    KEY_BYTES_MAX = 65535,
    NAME_BYTES_MAX = 63, /* ggml's names end within 64 bytes */
    ALIGNMENT_MAX = 1 << 16,
    READ_BYTES = 1 << 20, /* the header is read in growing steps of at least this */
};

/* A header holds names, texts and numbers; a vocabulary of a million tokens takes 40 MB. */
static const uint64_t header_max = 512ull << 20;

/* X(enum, number in the file, bytes; 0: not of fixed size) */
#define VALUE_TYPES(X)                                                                                                 \
    X(VALUE_U8, 0, 1)                                                                                                  \
    X(VALUE_I8, 1, 1)                                                                                                  \
    X(VALUE_U16, 2, 2)                                                                                                 \
    X(VALUE_I16, 3, 2)                                                                                                 \
    X(VALUE_U32, 4, 4)                                                                                                 \
    X(VALUE_I32, 5, 4)                                                                                                 \
    X(VALUE_F32, 6, 4)                                                                                                 \
    X(VALUE_BOOL, 7, 1)                                                                                                \
    X(VALUE_TEXT, 8, 0)                                                                                                \
    X(VALUE_ARRAY, 9, 0)                                                                                               \
    X(VALUE_U64, 10, 8)                                                                                                \
    X(VALUE_I64, 11, 8)                                                                                                \
    X(VALUE_F64, 12, 8)

typedef enum ValueType {
#define X(type, number, bytes) type = number,
    VALUE_TYPES(X)
#undef X
        VALUE_COUNT
} ValueType;

static const size_t value_bytes[VALUE_COUNT] = {
#define X(type, number, bytes) [type] = bytes,
    VALUE_TYPES(X)
#undef X
};

/* Places are offsets into the header, because it moves while it grows. */
typedef struct Pair {
    char *key;      /* owned */
    ValueType type; /* of an array: of its elements */
    bool array;
    int64_t count;    /* elements; 1 for a plain value */
    uint64_t at;      /* first byte of the value or of the elements */
    uint64_t *starts; /* of a text array: where each element's length stands; owned */
} Pair;

struct Gguf {
    File file;
    char *bytes; /* the header and a little more */
    size_t capacity;
    uint64_t loaded;
    uint64_t at; /* while reading: the next byte */
    Pair *pairs; /* sorted by key */
    size_t pair_count, pair_capacity;
    GgufTensor *tensors; /* in the order of the file */
    int *by_name;        /* indices, sorted by name */
    size_t tensor_count, tensor_capacity;
};

static bool fail_here(const Gguf *g, Err *err, const char *why)
{
    return FAIL(err, ERR_MODEL, "%s: byte %llu: %s", g->file.path, (unsigned long long)g->at, why);
}

/* Makes sure that `length` more bytes are loaded. */
static bool need(Gguf *g, uint64_t length, Err *err)
{
    uint64_t end;
    if (!checked_add(g->at, length, &end) || end > g->file.size) {
        return fail_here(g, err, "the file ends inside of its header; was it cut?");
    }
    if (end <= g->loaded) return true;
    if (end > header_max) return fail_here(g, err, "the header is larger than 512 MB");
    uint64_t target = 2 * g->loaded + READ_BYTES;
    if (target < end) target = end;
    if (target > g->file.size) target = g->file.size;
    if (!mem_grow(&g->bytes, &g->capacity, (size_t)target, 1, err)) return false;
    if (!file_read_at(&g->file, g->loaded, g->bytes + g->loaded, (size_t)(target - g->loaded), err)) return false;
    g->loaded = target;
    return true;
}

/* A little-endian number of n bytes at `at`, already loaded. */
static uint64_t number_at(const Gguf *g, uint64_t at, size_t n)
{
    uint64_t value = 0;
    for (size_t i = n; i-- > 0;)
        value = value << 8 | (unsigned char)g->bytes[at + i];
    return value;
}

static bool read_number(Gguf *g, size_t n, uint64_t *out, Err *err)
{
    if (!need(g, n, err)) return false;
    *out = number_at(g, g->at, n);
    g->at += n;
    return true;
}

static bool skip_text(Gguf *g, Err *err)
{
    uint64_t length;
    if (!read_number(g, 8, &length, err) || !need(g, length, err)) return false;
    g->at += length;
    return true;
}

/* A key or the name of a tensor, as a text of our own. */
static bool read_name(Gguf *g, uint64_t most, char **out, Err *err)
{
    uint64_t length;
    if (!read_number(g, 8, &length, err)) return false;
    if (length == 0 || length > most) return fail_here(g, err, "a name is empty or too long");
    if (!need(g, length, err)) return false;
    const char *name = g->bytes + g->at;
    if (!utf8_valid(name, (size_t)length, NULL)) return fail_here(g, err, "a name is not UTF-8");
    for (uint64_t i = 0; i < length; i++) {
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7F) {
            return fail_here(g, err, "a name has a control character");
        }
    }
    *out = mem_copy_bytes(name, (size_t)length, err);
    g->at += length;
    return *out != NULL;
}

static bool read_type(Gguf *g, ValueType *out, Err *err)
{
    uint64_t type;
    if (!read_number(g, 4, &type, err)) return false;
    if (type >= VALUE_COUNT) return fail_here(g, err, "a value has an unknown type");
    *out = (ValueType)type;
    return true;
}

static bool check_bools(const Gguf *g, const Pair *p, Err *err)
{
    for (int64_t i = 0; i < p->count; i++) {
        if ((unsigned char)g->bytes[p->at + (uint64_t)i] > 1) return fail_here(g, err, "a truth value is not 0 or 1");
    }
    return true;
}

/* Steps over the elements and notes where texts start. A text takes 8 bytes at least, which bounds the notes. */
static bool read_texts(Gguf *g, Pair *p, Err *err)
{
    uint64_t least;
    if (!checked_mul((uint64_t)p->count, 8, &least) || !need(g, least, err)) {
        return fail_here(g, err, "a list of texts is longer than the file");
    }
    p->starts = mem_alloc((size_t)p->count, sizeof *p->starts, err);
    if (!p->starts) return false;
    for (int64_t i = 0; i < p->count; i++) {
        p->starts[i] = g->at;
        if (!skip_text(g, err)) return false;
    }
    return true;
}

static bool read_value(Gguf *g, Pair *p, Err *err)
{
    uint64_t count = 1;
    uint64_t bytes;
    if (!read_type(g, &p->type, err)) return false;
    if (p->type == VALUE_ARRAY) {
        p->array = true;
        if (!read_type(g, &p->type, err) || !read_number(g, 8, &count, err)) return false;
        if (p->type == VALUE_ARRAY) return fail_here(g, err, "a list of lists is not supported");
        if (count > INT64_MAX) return fail_here(g, err, "a list is longer than the file");
    }
    p->count = (int64_t)count;
    p->at = g->at;
    if (p->type == VALUE_TEXT) return p->array ? read_texts(g, p, err) : skip_text(g, err);
    if (!checked_mul(count, value_bytes[p->type], &bytes)) return fail_here(g, err, "a list is longer than the file");
    if (!need(g, bytes, err)) return false;
    if (p->type == VALUE_BOOL && !check_bools(g, p, err)) return false;
    g->at += bytes;
    return true;
}

static int compare_pairs(const void *a, const void *b)
{
    const Pair *x = a;
    const Pair *y = b;
    return strcmp(x->key, y->key);
}

static bool read_pairs(Gguf *g, uint64_t count, Err *err)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!mem_grow(&g->pairs, &g->pair_capacity, g->pair_count + 1, sizeof *g->pairs, err)) return false;
        Pair *p = &g->pairs[g->pair_count++];
        *p = (Pair){0};
        if (!read_name(g, KEY_BYTES_MAX, &p->key, err) || !read_value(g, p, err)) return false;
    }
    if (g->pair_count) qsort(g->pairs, g->pair_count, sizeof *g->pairs, compare_pairs);
    for (size_t i = 1; i < g->pair_count; i++) {
        if (strcmp(g->pairs[i - 1].key, g->pairs[i].key) != 0) continue;
        return FAIL(err, ERR_MODEL, "%s: the key \"%s\" stands there twice", g->file.path, g->pairs[i].key);
    }
    return true;
}

static bool fail_tensor(const Gguf *g, Err *err, const GgufTensor *t, const char *why)
{
    return FAIL(err, ERR_MODEL, "%s: tensor \"%s\" %s", g->file.path, t->name, why);
}

/* What ggml calls the types that we do not decode, by number. */
static const char *unsupported_name(uint64_t type)
{
    static const char *const names[] = {
        [9] = "Q8_1",     [10] = "Q2_K",  [11] = "Q3_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS",
        [18] = "IQ3_XXS", [19] = "IQ1_S", [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS",
        [24] = "I8",      [25] = "I16",   [26] = "I32",    [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",
        [34] = "TQ1_0",   [35] = "TQ2_0", [39] = "MXFP4",  [40] = "NVFP4",
    };
    return type < ARRAY_COUNT(names) && names[type] ? names[type] : "unknown";
}

static bool read_tensor_type(Gguf *g, GgufTensor *t, int64_t *block, size_t *block_bytes, Err *err)
{
    uint64_t number;
    if (!read_number(g, 4, &number, err)) return false;
    switch (number) {
#define X(name, value, elements, bytes, text)                                                                          \
    case value:                                                                                                        \
        t->type = name;                                                                                                \
        t->type_name = text;                                                                                           \
        *block = elements;                                                                                             \
        *block_bytes = bytes;                                                                                          \
        return true;
        GGUF_TYPES(X)
#undef X
    default:
        return FAIL(err, ERR_MODEL,
                    "%s: tensor \"%s\" has the type %s (%llu), which is not supported; supported are F32, F16, BF16, "
                    "Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K",
                    g->file.path, t->name, unsupported_name(number), (unsigned long long)number);
    }
}

/* The file stores the innermost dimension first. */
static bool read_shape(Gguf *g, GgufTensor *t, Err *err)
{
    uint64_t rank;
    uint64_t count = 1;
    if (!read_number(g, 4, &rank, err)) return false;
    if (rank < 1 || rank > TENSOR_RANK_MAX) return fail_tensor(g, err, t, "does not have one to four dimensions");
    t->rank = (int)rank;
    for (int i = t->rank - 1; i >= 0; i--) {
        uint64_t size;
        if (!read_number(g, 8, &size, err)) return false;
        if (size == 0) return fail_tensor(g, err, t, "has an empty dimension");
        if (!checked_mul(count, size, &count) || count > INT64_MAX) {
            return fail_tensor(g, err, t, "is too large: its shape overflows");
        }
        t->shape[i] = (int64_t)size;
    }
    t->count = (int64_t)count;
    return true;
}

static bool read_tensor(Gguf *g, GgufTensor *t, Err *err)
{
    int64_t block = 1;
    size_t block_bytes = 0;
    uint64_t bytes;
    if (!read_name(g, NAME_BYTES_MAX, &t->name, err) || !read_shape(g, t, err)) return false;
    if (!read_tensor_type(g, t, &block, &block_bytes, err)) return false;
    if (!read_number(g, 8, &t->offset, err)) return false;
    if (t->shape[t->rank - 1] % block != 0) return fail_tensor(g, err, t, "has rows that are no whole blocks");
    if (!checked_mul((uint64_t)(t->count / block), block_bytes, &bytes) || bytes > g->file.size) {
        return fail_tensor(g, err, t, "is larger than the file; was it cut?");
    }
    t->bytes = (size_t)bytes;
    return true;
}

static bool read_tensors(Gguf *g, uint64_t count, Err *err)
{
    for (uint64_t i = 0; i < count; i++) {
        if (!mem_grow(&g->tensors, &g->tensor_capacity, g->tensor_count + 1, sizeof *g->tensors, err)) return false;
        GgufTensor *t = &g->tensors[g->tensor_count++];
        *t = (GgufTensor){0};
        if (!read_tensor(g, t, err)) return false;
    }
    return true;
}

static int compare_names(const void *a, const void *b, void *tensors)
{
    const GgufTensor *t = tensors;
    const int *x = a;
    const int *y = b;
    return strcmp(t[*x].name, t[*y].name);
}

static bool index_names(Gguf *g, Err *err)
{
    g->by_name = mem_alloc(g->tensor_count, sizeof *g->by_name, err);
    if (!g->by_name) return false;
    for (size_t i = 0; i < g->tensor_count; i++)
        g->by_name[i] = (int)i;
    qsort_r(g->by_name, g->tensor_count, sizeof *g->by_name, compare_names, g->tensors);
    for (size_t i = 1; i < g->tensor_count; i++) {
        const GgufTensor *t = &g->tensors[g->by_name[i]];
        if (strcmp(g->tensors[g->by_name[i - 1]].name, t->name) == 0)
            return fail_tensor(g, err, t, "stands there twice");
    }
    return true;
}

/* As ggml demands: each tensor starts where the one before it, padded, ended. Offsets become those in the file. */
static bool place_tensors(Gguf *g, Err *err)
{
    int64_t alignment = 32;
    uint64_t start;
    uint64_t end = 0;
    const bool given = gguf_int(g, "general.alignment", &alignment);
    if (given && (alignment < 1 || alignment > ALIGNMENT_MAX || (alignment & (alignment - 1)))) {
        return FAIL(err, ERR_MODEL, "%s: general.alignment is %lld, not a power of two up to %d", g->file.path,
                    (long long)alignment, ALIGNMENT_MAX);
    }
    if (!checked_align(g->at, (uint64_t)alignment, &start)) return fail_here(g, err, "the header is too long");
    for (size_t i = 0; i < g->tensor_count; i++) {
        GgufTensor *t = &g->tensors[i];
        uint64_t last;
        if (t->offset != end) return fail_tensor(g, err, t, "does not start where the tensor before it ended");
        if (!checked_add(start, end, &t->offset) || !checked_add(t->offset, t->bytes, &last) || last > g->file.size) {
            return fail_tensor(g, err, t, "ends beyond the end of the file; was it cut?");
        }
        if (!checked_add(end, t->bytes, &end) || !checked_align(end, (uint64_t)alignment, &end)) {
            return fail_tensor(g, err, t, "is too large");
        }
    }
    return true;
}

static bool read_start(Gguf *g, uint64_t *tensors, uint64_t *pairs, Err *err)
{
    uint64_t version;
    const char *path = g->file.path;
    if (g->file.size < 24 || !need(g, 24, err) || memcmp(g->bytes, "GGUF", 4) != 0) {
        return FAIL(err, ERR_MODEL, "%s is no GGUF file", path);
    }
    g->at = 4;
    if (!read_number(g, 4, &version, err)) return false;
    if ((version & 0xFFFF) == 0) return FAIL(err, ERR_MODEL, "%s is a big-endian GGUF file; convert it again", path);
    if (version != 2 && version != 3) {
        return FAIL(err, ERR_MODEL, "%s is GGUF version %llu; versions 2 and 3 are supported", path,
                    (unsigned long long)version);
    }
    if (!read_number(g, 8, tensors, err) || !read_number(g, 8, pairs, err)) return false;
    if (*tensors > TENSORS_MAX) return fail_here(g, err, "more than 200000 tensors");
    return *pairs <= KEYS_MAX || fail_here(g, err, "more than 65536 keys");
}

bool gguf_open(Gguf **out, const char *path, Err *err)
{
    uint64_t tensors = 0;
    uint64_t pairs = 0;
    Gguf *g = mem_alloc(1, sizeof *g, err);
    if (!g) return false;
    g->file.fd = -1;
    TRY(file_open_read(&g->file, path, ERR_MODEL, err));
    TRY(read_start(g, &tensors, &pairs, err));
    TRY(read_pairs(g, pairs, err));
    TRY(read_tensors(g, tensors, err));
    TRY(index_names(g, err));
    TRY(place_tensors(g, err));
    *out = g;
    return true;
fail:
    gguf_close(g);
    return false;
}

void gguf_close(Gguf *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->pair_count; i++) {
        mem_free(g->pairs[i].key);
        mem_free(g->pairs[i].starts);
    }
    for (size_t i = 0; i < g->tensor_count; i++)
        mem_free(g->tensors[i].name);
    mem_free(g->pairs);
    mem_free(g->tensors);
    mem_free(g->by_name);
    mem_free(g->bytes);
    file_close(&g->file);
    mem_free(g);
}

const File *gguf_file(const Gguf *g)
{
    return &g->file;
}

static const Pair *find_pair(const Gguf *g, const char *key, bool array)
{
    const Pair wanted = {.key = (char *)(uintptr_t)key}; /* only read */
    if (g->pair_count == 0) return NULL;
    const Pair *p = bsearch(&wanted, g->pairs, g->pair_count, sizeof *g->pairs, compare_pairs);
    return p && p->array == array ? p : NULL;
}

static bool text_at(const Gguf *g, uint64_t at, const char **text, size_t *length)
{
    *length = (size_t)number_at(g, at, 8);
    *text = g->bytes + at + 8;
    return true;
}

static bool int_at(const Gguf *g, ValueType type, uint64_t at, int64_t *out)
{
    const uint64_t raw = number_at(g, at, value_bytes[type]);
    switch (type) {
    case VALUE_U8:
    case VALUE_U16:
    case VALUE_U32:
    case VALUE_I64: *out = (int64_t)raw; return true;
    case VALUE_I8: *out = (int8_t)raw; return true;
    case VALUE_I16: *out = (int16_t)raw; return true;
    case VALUE_I32: *out = (int32_t)raw; return true;
    case VALUE_U64: *out = (int64_t)raw; return raw <= INT64_MAX;
    default: return false;
    }
}

static bool real_at(const Gguf *g, ValueType type, uint64_t at, double *out)
{
    if (type == VALUE_F32) {
        float value;
        memcpy(&value, g->bytes + at, sizeof value);
        *out = (double)value;
        return true;
    }
    if (type == VALUE_F64) {
        memcpy(out, g->bytes + at, sizeof *out);
        return true;
    }
    int64_t whole;
    if (!int_at(g, type, at, &whole)) return false;
    *out = (double)whole;
    return true;
}

bool gguf_text(const Gguf *g, const char *key, const char **text, size_t *length)
{
    const Pair *p = find_pair(g, key, false);
    return p && p->type == VALUE_TEXT && text_at(g, p->at, text, length);
}

bool gguf_int(const Gguf *g, const char *key, int64_t *out)
{
    const Pair *p = find_pair(g, key, false);
    return p && int_at(g, p->type, p->at, out);
}

bool gguf_real(const Gguf *g, const char *key, double *out)
{
    const Pair *p = find_pair(g, key, false);
    return p && real_at(g, p->type, p->at, out);
}

bool gguf_bool(const Gguf *g, const char *key, bool *out)
{
    const Pair *p = find_pair(g, key, false);
    if (!p || p->type != VALUE_BOOL) return false;
    *out = g->bytes[p->at] != 0;
    return true;
}

int64_t gguf_array_count(const Gguf *g, const char *key)
{
    const Pair *p = find_pair(g, key, true);
    return p ? p->count : -1;
}

/* Element i of an array of values of fixed size; null when there is none. */
static const Pair *find_element(const Gguf *g, const char *key, int64_t i, uint64_t *at)
{
    const Pair *p = find_pair(g, key, true);
    if (!p || i < 0 || i >= p->count) return NULL;
    *at = p->starts ? p->starts[i] : p->at + (uint64_t)i * value_bytes[p->type];
    return p;
}

bool gguf_array_text(const Gguf *g, const char *key, int64_t i, const char **text, size_t *length)
{
    uint64_t at;
    const Pair *p = find_element(g, key, i, &at);
    return p && p->type == VALUE_TEXT && text_at(g, at, text, length);
}

bool gguf_array_int(const Gguf *g, const char *key, int64_t i, int64_t *out)
{
    uint64_t at;
    const Pair *p = find_element(g, key, i, &at);
    return p && int_at(g, p->type, at, out);
}

bool gguf_array_real(const Gguf *g, const char *key, int64_t i, double *out)
{
    uint64_t at;
    const Pair *p = find_element(g, key, i, &at);
    return p && real_at(g, p->type, at, out);
}

int gguf_tensor_count(const Gguf *g)
{
    return (int)g->tensor_count;
}

const GgufTensor *gguf_tensor(const Gguf *g, int i)
{
    CHECK(i >= 0 && (size_t)i < g->tensor_count);
    return &g->tensors[i];
}

const GgufTensor *gguf_find(const Gguf *g, const char *name)
{
    size_t low = 0;
    size_t high = g->tensor_count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const GgufTensor *t = &g->tensors[g->by_name[middle]];
        const int order = strcmp(name, t->name);
        if (order == 0) return t;
        if (order < 0) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}
