/*
 * case_host.cpp - host code that uses streams, events and memory rightly, and the same with one mistake.
 */
#include "cases.h"

#include <string.h>

namespace
{
constexpr size_t N = 4096, BYTES = N * sizeof(int);

struct Setup {
    cudaStream_t copies, work;
    cudaEvent_t arrived, used;
    int *pinned_in, *pinned_out, *x, *y;
};

Setup prepare()
{
    Setup s = {};
    void *p[4] = {};
    cudaStreamCreateWithFlags(&s.copies, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&s.work, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&s.arrived, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&s.used, cudaEventDisableTiming);
    cudaMallocHost(&p[0], BYTES);
    cudaMallocHost(&p[1], BYTES);
    cudaMalloc(&p[2], BYTES);
    cudaMalloc(&p[3], BYTES);
    s.pinned_in = static_cast<int *>(p[0]), s.pinned_out = static_cast<int *>(p[1]);
    s.x = static_cast<int *>(p[2]), s.y = static_cast<int *>(p[3]);
    return s;
}

bool all_equal(const int *values, int expected)
{
    for (size_t i = 0; i < N; i++)
        if (values[i] != expected) return false;
    return true;
}

enum Mistake { NONE, NO_EVENT_WAIT, BUFFER_REUSED, READ_TOO_SOON, NO_WAIT_BEFORE_REFILL };

/* Rounds of: host -> x on one stream, x -> y -> host on another. */
template <Mistake MISTAKE> bool rounds()
{
    const Setup s = prepare();
    for (int round = 0; round < 10; round++) {
        if (round > 0 && MISTAKE != NO_WAIT_BEFORE_REFILL) cudaStreamWaitEvent(s.copies, s.used, 0);
        if (MISTAKE != BUFFER_REUSED && round > 0) cudaStreamSynchronize(s.copies);
        for (size_t i = 0; i < N; i++)
            s.pinned_in[i] = round;
        cudaMemcpyAsync(s.x, s.pinned_in, BYTES, cudaMemcpyHostToDevice, s.copies);
        cudaEventRecord(s.arrived, s.copies);
        if (MISTAKE == BUFFER_REUSED) s.pinned_in[7] = -1;
        if (MISTAKE != NO_EVENT_WAIT) cudaStreamWaitEvent(s.work, s.arrived, 0);
        cudaMemcpyAsync(s.y, s.x, BYTES, cudaMemcpyDeviceToDevice, s.work);
        cudaEventRecord(s.used, s.work);
        cudaMemcpyAsync(s.pinned_out, s.y, BYTES, cudaMemcpyDeviceToHost, s.work);
        if (MISTAKE == NO_WAIT_BEFORE_REFILL) {
            /* the next round's bytes arrive while this round may not have read its own */
            cudaStreamSynchronize(s.copies);
            for (size_t i = 0; i < N; i++)
                s.pinned_in[i] = 1000;
            cudaMemcpyAsync(s.x, s.pinned_in, BYTES, cudaMemcpyHostToDevice, s.copies);
            cudaStreamSynchronize(s.copies);
        }
        if (MISTAKE != READ_TOO_SOON) cudaStreamSynchronize(s.work);
        if (!all_equal(s.pinned_out, round)) return false;
    }
    return cudaDeviceSynchronize() == cudaSuccess;
}

/* --- mistakes that are reported --- */

bool host_reads_device_memory()
{
    const Setup s = prepare();
    volatile int *x = s.x;
    return x[5] == 0;
}

bool host_reads_managed_memory_too_soon()
{
    int *values = managed<int>(N);
    cudaMemsetAsync(values, 0, BYTES, nullptr);
    cudaMemsetAsync(values, 0, BYTES, nullptr);
    cudaMemsetAsync(values, 0, BYTES, nullptr);
    volatile int *seen = values;
    return seen[5] == 0;
}

bool memory_freed_while_in_use()
{
    const Setup s = prepare();
    for (int i = 0; i < 4; i++)
        cudaMemsetAsync(s.x, 0, BYTES, s.work);
    return cudaFree(s.x) == cudaSuccess;
}

bool pinned_memory_freed_while_in_use()
{
    const Setup s = prepare();
    for (int i = 0; i < 4; i++)
        cudaMemcpyAsync(s.x, s.pinned_in, BYTES, cudaMemcpyHostToDevice, s.copies);
    return cudaFreeHost(s.pinned_in) == cudaSuccess;
}

bool waits_for_an_event_nobody_records()
{
    const Setup s = prepare();
    return cudaStreamWaitEvent(s.work, s.arrived, 0) == cudaSuccess;
}

bool copy_past_its_allocation()
{
    const Setup s = prepare();
    return cudaMemcpyAsync(s.x + 1, s.pinned_in, BYTES, cudaMemcpyHostToDevice, s.copies) == cudaSuccess;
}

bool copy_from_freed_memory()
{
    const Setup s = prepare();
    cudaFree(s.x);
    return cudaMemcpyAsync(s.y, s.x, BYTES, cudaMemcpyDeviceToDevice, s.work) == cudaSuccess;
}

bool stream_used_after_it_was_destroyed()
{
    const Setup s = prepare();
    cudaStreamDestroy(s.work);
    return cudaMemsetAsync(s.x, 0, BYTES, s.work) == cudaSuccess;
}

/* --- right ones --- */

/* Host memory that is not pinned may change as soon as the call returns, and is filled when it returns. */
bool pageable_memory()
{
    const Setup s = prepare();
    int in[N], out[N];
    for (size_t i = 0; i < N; i++)
        in[i] = 3;
    cudaMemcpyAsync(s.x, in, BYTES, cudaMemcpyHostToDevice, s.work);
    memset(in, 0, sizeof in);
    cudaMemcpyAsync(out, s.x, BYTES, cudaMemcpyDeviceToHost, s.work);
    return all_equal(out, 3);
}

bool default_stream_waits_for_blocking_streams()
{
    const Setup s = prepare();
    cudaStream_t blocking;
    cudaStreamCreate(&blocking);
    for (int round = 0; round < 10; round++) {
        cudaMemsetAsync(s.x, round, BYTES, blocking);
        cudaMemcpyAsync(s.y, s.x, BYTES, cudaMemcpyDeviceToDevice, nullptr);
        cudaMemcpyAsync(s.pinned_out, s.y, BYTES, cudaMemcpyDeviceToHost, blocking);
        cudaStreamSynchronize(blocking);
        if (!all_equal(s.pinned_out, round * 0x01010101)) return false;
    }
    return true;
}

bool managed_memory_after_waiting()
{
    int *values = managed<int>(N);
    cudaMemsetAsync(values, 1, BYTES, nullptr);
    cudaDeviceSynchronize();
    values[5] = 0x01010101;
    return all_equal(values, 0x01010101);
}

bool rectangles()
{
    const Setup s = prepare();
    for (int i = 0; i < 64; i++)
        s.pinned_in[i] = i;
    cudaMemsetAsync(s.x, 0, BYTES, s.work);
    /* 4 rows of 8 ints, 16 apart, into rows 32 apart */
    cudaMemcpy2DAsync(s.x, 128, s.pinned_in, 64, 32, 4, cudaMemcpyHostToDevice, s.work);
    cudaMemcpyAsync(s.pinned_out, s.x, BYTES, cudaMemcpyDeviceToHost, s.work);
    cudaStreamSynchronize(s.work);
    for (int row = 0; row < 4; row++)
        for (int column = 0; column < 32; column++)
            if (s.pinned_out[row * 32 + column] != (column < 8 ? row * 16 + column : 0)) return false;
    return true;
}

void add_one(void *value)
{
    ++*static_cast<int *>(value);
}

bool host_functions()
{
    const Setup s = prepare();
    int calls = 0;
    for (int i = 0; i < 3; i++)
        cudaLaunchHostFunc(s.work, add_one, &calls);
    cudaStreamSynchronize(s.work);
    return calls == 3;
}

/* x = in, y = x on two streams joined by events; replayed with other bytes. */
bool graph_of_two_streams()
{
    const Setup s = prepare();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t ready = nullptr;
    cudaStreamBeginCapture(s.work, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(s.used, s.work);
    cudaStreamWaitEvent(s.copies, s.used, 0);
    cudaMemcpyAsync(s.x, s.pinned_in, BYTES, cudaMemcpyHostToDevice, s.copies);
    cudaEventRecord(s.arrived, s.copies);
    cudaMemsetAsync(s.y, 0, BYTES, s.work);
    cudaStreamWaitEvent(s.work, s.arrived, 0);
    cudaMemcpyAsync(s.y, s.x, BYTES, cudaMemcpyDeviceToDevice, s.work);
    cudaMemcpyAsync(s.pinned_out, s.y, BYTES, cudaMemcpyDeviceToHost, s.work);
    if (cudaStreamEndCapture(s.work, &graph) != cudaSuccess) return false;
    if (cudaGraphInstantiate(&ready, graph, 0) != cudaSuccess) return false;
    cudaGraphDestroy(graph);
    for (int round = 0; round < 5; round++) {
        for (size_t i = 0; i < N; i++)
            s.pinned_in[i] = round;
        cudaGraphLaunch(ready, s.work);
        cudaStreamSynchronize(s.work);
        if (!all_equal(s.pinned_out, round)) return false;
    }
    return cudaGraphExecDestroy(ready) == cudaSuccess;
}
} // namespace

const Case host_right_cases[] = {
    {"rounds over two streams",               rounds<NONE>,                              nullptr},
    {"host memory that is not pinned",        pageable_memory,                           nullptr},
    {"the default stream and a blocking one", default_stream_waits_for_blocking_streams, nullptr},
    {"managed memory after waiting",          managed_memory_after_waiting,              nullptr},
    {"rectangles",                            rectangles,                                nullptr},
    {"functions of the host",                 host_functions,                            nullptr},
    {"a graph of two streams",                graph_of_two_streams,                      nullptr},
    {nullptr,                                 nullptr,                                   nullptr},
};

const Case host_value_cases[] = {
    {"no wait for an event",                    rounds<NO_EVENT_WAIT>,         nullptr},
    {"a pinned buffer reused before its copy",  rounds<BUFFER_REUSED>,         nullptr},
    {"a result read without waiting",           rounds<READ_TOO_SOON>,         nullptr},
    {"device memory refilled while it is read", rounds<NO_WAIT_BEFORE_REFILL>, nullptr},
    {nullptr,                                   nullptr,                       nullptr},
};

const Case host_reported_cases[] = {
    {"the host reads device memory",           host_reads_device_memory,           "host code touches byte 20 of cudaMalloc allocation"},
    {"the host reads managed memory too soon", host_reads_managed_memory_too_soon, "byte 20 of cudaMallocManaged"                      },
    {"device memory freed while in use",       memory_freed_while_in_use,          "while work is pending"                             },
    {"pinned memory freed while in use",       pinned_memory_freed_while_in_use,   "while work is pending"                             },
    {"a wait for an event nobody records",     waits_for_an_event_nobody_records,  "nobody has recorded"                               },
    {"a copy past its allocation",             copy_past_its_allocation,           "leaves its memory"                                 },
    {"a copy from freed memory",               copy_from_freed_memory,             "freed cudaMalloc"                                  },
    {"a stream used after it was destroyed",   stream_used_after_it_was_destroyed, "destroyed"                                         },
    {nullptr,                                  nullptr,                            nullptr                                             },
};
