/*
 * tensorboard.h - scalars in TensorBoard's event files, without its libraries.
 *
 * File events.out.tfevents.TIME.HOST.PID.0; record = u64 length, u32 masked CRC-32C of it, data, u32 masked CRC-32C of
 * the data; data = protobuf Event. A resumed run opens a new file that starts with a session_log at its step, so that
 * the viewer drops what the lost part of the earlier one holds.
 * Source: tensorflow/core/util/event.proto, tensorflow/core/lib/io/record_writer.cc (format).
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct Tensorboard {
    char *path; /* owned; null: off */
} Tensorboard;

/* `step`: updates done so far; the first record says where the curve goes on. */
bool tensorboard_open(Tensorboard *out, const char *folder, int64_t step, Err *err) MUST_USE;
void tensorboard_close(Tensorboard *t);

/* One value of the curve `tag`; does not allocate. Nothing happens when it is off. */
bool tensorboard_scalar(const Tensorboard *t, const char *tag, int64_t step, double value, Err *err) MUST_USE;

uint32_t tensorboard_crc(const void *bytes, size_t length); /* CRC-32C, not masked */
