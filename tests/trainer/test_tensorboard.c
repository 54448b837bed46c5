#include "base/file.h"
#include "base/mem.h"
#include "tests/support/tiny.h"
#include "trainer/tensorboard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void the_checksum_is_crc32c(void **state)
{
    (void)state;
    assert_int_equal(tensorboard_crc("123456789", 9), 0xE3069283u);
    assert_int_equal(tensorboard_crc("", 0), 0);
}

static uint32_t u32_at(const char *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, 4);
    return value;
}

static uint32_t masked(const void *bytes, size_t length)
{
    const uint32_t crc = tensorboard_crc(bytes, length);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* Records as a reader sees them: lengths and checksums must fit; the n-th one's data is returned. */
static const char *record(const char *bytes, size_t length, int n, size_t *size)
{
    size_t at = 0;
    for (int i = 0; at < length; i++) {
        uint64_t data;
        memcpy(&data, bytes + at, 8);
        assert_true(data < length && at + 16 + data <= length);
        assert_int_equal(u32_at(bytes + at + 8), masked(bytes + at, 8));
        assert_int_equal(u32_at(bytes + at + 12 + data), masked(bytes + at + 12, data));
        if (i == n) {
            *size = data;
            return bytes + at + 12;
        }
        at += 16 + data;
    }
    return NULL;
}

static void records_have_the_frame_and_the_fields_that_readers_want(void **state)
{
    (void)state;
    Err err = {0};
    char *folder = tiny_temp_folder();
    Tensorboard t = {0};
    assert_true(tensorboard_open(&t, folder, 7, &err));
    assert_true(tensorboard_scalar(&t, "train/loss", 8, 0.5, &err));
    char *bytes = NULL;
    size_t length = 0, size = 0;
    assert_true(file_read_all(&bytes, &length, t.path, 1 << 20, ERR_DISK, &err));
    const char *first = record(bytes, length, 0, &size);
    assert_non_null(memmem(first, size, "brain.Event:2", 13));
    const char *session = record(bytes, length, 1, &size); /* a resumed run: session_log {START} at step 7 */
    assert_memory_equal(session + 9, "\x10\x07\x3a\x02\x08\x01", 6);
    const char *scalar = record(bytes, length, 2, &size);
    assert_int_equal(scalar[0], 0x09); /* wall_time, a double */
    assert_memory_equal(scalar + 9, "\x10\x08\x2a", 3);
    assert_non_null(memmem(scalar, size, "\x0a\x0atrain/loss", 12));
    assert_non_null(memmem(scalar, size, "\x0a\x07scalars", 9));
    const float half = 0.5f;
    char packed[6] = {0x2a, 4};
    memcpy(packed + 2, &half, 4);
    assert_non_null(memmem(scalar, size, packed, 6));
    assert_null(record(bytes, length, 3, &size));
    mem_free(bytes);
    tensorboard_close(&t);
    assert_true(tensorboard_scalar(&t, "off", 1, 1, &err)); /* closed: nothing happens */
    assert_true(file_remove_tree(folder, &err));
    mem_free(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum_is_crc32c),
        cmocka_unit_test(records_have_the_frame_and_the_fields_that_readers_want),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
