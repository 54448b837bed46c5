/*
 * device.h - which device a run computes on: the key `device`, or --device on the command line.
 *
 * auto: the first CUDA device where one is usable, the CPU otherwise; a card that is there but cannot be used is named
 * in the log. cuda, cuda:N: that device or an error; N counts what CUDA_VISIBLE_DEVICES leaves.
 */
#pragma once

#include "trainer/config.h"

typedef enum DeviceKind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA } DeviceKind;

typedef struct DeviceChoice {
    DeviceKind kind;
    int ordinal; /* cuda:N */
} DeviceChoice;

/* False when the text names no device. */
bool device_parse(DeviceChoice *out, const char *text);

/* Opens what was chosen; `options` brings threads and hooks. ERR_DEVICE when it cannot be used. */
bool device_open(Backend **out, const DeviceChoice *choice, const BackendOptions *options, Err *err) MUST_USE;

/* One line for people about the CUDA devices of this machine: what is there, or what is missing and what to do. */
void device_describe_cuda(char *text, size_t size);
