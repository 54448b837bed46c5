#include "base/hash.h"

#include "base/file.h"
#include "base/mem.h"
#include "tests/support/scratch.h"

#include <errno.h>

/* The published values of XXH3-128 with seed 0: of nothing, and as printed by `xxhsum -H128`. */
static void digests_are_those_of_xxh3_128(void **state)
{
    (void)state;
    char text[HASH_TEXT];
    hash_bytes("", 0, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
    assert_true(hash_u64("", 0) == 0x2d06800538d394c2ull);
}

static void pieces_hash_like_the_whole(void **state)
{
    (void)state;
    Err err = {0};
    static char bytes[5000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * i);
    char whole[HASH_TEXT];
    char pieces[HASH_TEXT];
    hash_bytes(bytes, sizeof bytes, whole);
    for (size_t step = 1; step < sizeof bytes; step = step * 3 + 1) {
        Hash *h;
        assert_done(hash_create(&h, &err));
        for (size_t at = 0; at < sizeof bytes; at += step)
            hash_add(h, bytes + at, sizeof bytes - at < step ? sizeof bytes - at : step);
        hash_finish(h, pieces);
        assert_string_equal(whole, pieces);
    }
    bytes[2500] ^= 1;
    hash_bytes(bytes, sizeof bytes, pieces);
    assert_string_not_equal(whole, pieces);
}

static void files_hash_like_their_bytes_or_not_at_all(void **state)
{
    (void)state;
    Err err = {0};
    Scratch s = scratch_make();
    const size_t size = (1 << 20) + 17; /* more than one read */
    char *bytes = malloc(size);
    assert_non_null(bytes);
    memset(bytes, 'q', size);
    const char *path = scratch_path(&s, "f");
    scratch_write(path, bytes, size);
    char of_file[HASH_TEXT];
    char of_bytes[HASH_TEXT];
    hash_bytes(bytes, size, of_bytes);
    assert_done(hash_file(path, ERR_CHECKPOINT, of_file, &err));
    assert_string_equal(of_file, of_bytes);
    for (uint64_t nth = 1;; nth++) {
        file_fail_at("any", nth, EIO, false);
        const bool ok = hash_file(path, ERR_CHECKPOINT, of_file, &err);
        file_fail_at(NULL, 0, 0, false);
        if (ok) break;
        assert_error(&err, ERR_CHECKPOINT, "could not");
    }
    for (uint64_t nth = 1;; nth++) {
        mem_fail_at(nth, false);
        const bool ok = hash_file(path, ERR_CHECKPOINT, of_file, &err);
        mem_fail_at(0, false);
        if (ok) break;
        assert_error(&err, ERR_MEMORY, "out of host memory");
    }
    free(bytes);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digests_are_those_of_xxh3_128),
        cmocka_unit_test(pieces_hash_like_the_whole),
        cmocka_unit_test(files_hash_like_their_bytes_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
