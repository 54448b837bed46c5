#include "trainer/tensorboard.h"

#include "base/check.h"
#include "base/file.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EVENT_MAX = 512, TAG_MAX = 128 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2 };

uint32_t tensorboard_crc(const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    uint32_t crc = ~0u;
    for (size_t i = 0; i < length; i++) {
        crc ^= at[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1u)));
    }
    return ~crc;
}

static uint32_t masked(const void *bytes, size_t length)
{
    const uint32_t crc = tensorboard_crc(bytes, length);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

/* A protobuf message being put together. */
typedef struct Message {
    unsigned char bytes[EVENT_MAX];
    size_t length;
} Message;

static void put_bytes(Message *m, const void *bytes, size_t length)
{
    CHECK(m->length + length <= sizeof m->bytes);
    memcpy(m->bytes + m->length, bytes, length);
    m->length += length;
}

static void put_varint(Message *m, uint64_t value)
{
    do {
        const unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put_bytes(m, &byte, 1);
        value >>= 7;
    } while (value);
}

static void put_key(Message *m, uint32_t field, uint32_t wire)
{
    put_varint(m, field << 3 | wire);
}

static void put_number(Message *m, uint32_t field, uint64_t value)
{
    put_key(m, field, WIRE_VARINT);
    put_varint(m, value);
}

static void put_field(Message *m, uint32_t field, const void *bytes, size_t length)
{
    put_key(m, field, WIRE_BYTES);
    put_varint(m, length);
    put_bytes(m, bytes, length);
}

static void put_message(Message *m, uint32_t field, const Message *inner)
{
    put_field(m, field, inner->bytes, inner->length);
}

/* Event {1 wall_time, 2 step} */
static void start_event(Message *m, int64_t step)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    const double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    m->length = 0;
    put_key(m, 1, WIRE_FIXED64);
    put_bytes(m, &seconds, sizeof seconds);
    put_number(m, 2, (uint64_t)step);
}

static bool write_record(const Tensorboard *t, const Message *event, Err *err)
{
    unsigned char record[EVENT_MAX + 16];
    const uint64_t length = event->length;
    const uint32_t head = masked(&length, sizeof length), tail = masked(event->bytes, event->length);
    memcpy(record, &length, 8);
    memcpy(record + 8, &head, 4);
    memcpy(record + 12, event->bytes, event->length);
    memcpy(record + 12 + event->length, &tail, 4);
    return file_append(t->path, record, event->length + 16, err);
}

bool tensorboard_open(Tensorboard *out, const char *folder, int64_t step, Err *err)
{
    char host[64] = "host", name[160];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "events.out.tfevents.%010lld.%.63s.%d.0", (long long)time(NULL), host, (int)getpid());
    Tensorboard t = {0};
    TRY(file_make_folders(folder, err));
    t.path = path_join(folder, name, err);
    if (!t.path) return false;
    Message event, start = {.length = 0};
    start_event(&event, 0);
    put_field(&event, 3, "brain.Event:2", 13);
    TRY(write_record(&t, &event, err));
    if (step > 0) {
        start_event(&event, step);
        put_number(&start, 1, 1); /* SessionLog.START */
        put_message(&event, 7, &start);
        TRY(write_record(&t, &event, err));
    }
    *out = t;
    return true;
fail:
    tensorboard_close(&t);
    return false;
}

void tensorboard_close(Tensorboard *t)
{
    mem_free(t->path);
    *t = (Tensorboard){0};
}

bool tensorboard_scalar(const Tensorboard *t, const char *tag, int64_t step, double value, Err *err)
{
    if (!t->path) return true;
    CHECK(strlen(tag) < TAG_MAX);
    const float number = (float)value;
    Message plugin = {.length = 0}, metadata = {.length = 0}, tensor = {.length = 0};
    Message entry = {.length = 0}, summary = {.length = 0}, event;
    put_field(&plugin, 1, "scalars", 7);
    put_message(&metadata, 1, &plugin);
    put_number(&metadata, 4, 1); /* DATA_CLASS_SCALAR */
    put_number(&tensor, 1, 1);   /* DT_FLOAT */
    put_field(&tensor, 2, "", 0);
    put_field(&tensor, 5, &number, sizeof number);
    put_field(&entry, 1, tag, strlen(tag));
    put_message(&entry, 9, &metadata);
    put_message(&entry, 8, &tensor);
    put_message(&summary, 1, &entry);
    start_event(&event, step);
    put_message(&event, 5, &summary);
    return write_record(t, &event, err);
}
