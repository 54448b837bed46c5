/*
 * test_runtime.cpp - the runtime as its callers see it: devices, memory, launches, errors on demand, events, graphs.
 */
#include "emulation.h"

#include <cuda_runtime.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
#include <cmocka.h>
}

#include <string.h>

#include "runtime_cases.h"

namespace
{
int back_to_normal(void **)
{
    cudaDeviceSynchronize();
    assert_true(emulation_fault(nullptr));
    assert_true(emulation_streams("eager"));
    assert_true(emulation_order("in-order"));
    assert_true(emulation_capability("9.0"));
    emulation_memory(1u << 30);
    return 0;
}

void the_device_is_what_was_asked_for(void **)
{
    assert_true(emulation_capability("7.5"));
    emulation_memory(123456789);
    int devices = 0, major = 0, shared = 0;
    assert_int_equal(cudaGetDeviceCount(&devices), cudaSuccess);
    assert_int_equal(devices, 1);
    cudaDeviceProp properties;
    assert_int_equal(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
    assert_int_equal(properties.major * 10 + properties.minor, 75);
    assert_int_equal(properties.totalGlobalMem, 123456789);
    assert_int_equal(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
    assert_int_equal(major, 7);
    assert_int_equal(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), cudaSuccess);
    assert_int_equal(shared, 64 << 10);
    assert_int_equal(cudaSetDevice(1), cudaErrorInvalidDevice);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidDevice);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
}

void memory_ends_where_the_setting_says(void **)
{
    emulation_memory(1u << 20);
    void *a = nullptr, *b = nullptr;
    size_t available = 0, total = 0;
    assert_int_equal(cudaMalloc(&a, 600u << 10), cudaSuccess);
    assert_int_equal(cudaMemGetInfo(&available, &total), cudaSuccess);
    assert_int_equal(total, 1u << 20);
    assert_int_equal(available, 424u << 10);
    assert_int_equal(cudaMalloc(&b, 600u << 10), cudaErrorMemoryAllocation);
    assert_null(b);
    assert_int_equal(cudaFree(a), cudaSuccess);
    assert_int_equal(cudaMalloc(&b, 600u << 10), cudaSuccess); /* running out is not for ever */
    assert_int_equal(cudaFree(b), cudaSuccess);
    assert_int_equal(cudaFree(&total), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
}

void fresh_memory_is_not_a_number(void **)
{
    void *device = nullptr;
    float host[33];
    assert_int_equal(cudaMalloc(&device, sizeof host), cudaSuccess);
    assert_int_equal(cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost), cudaSuccess);
    for (const float value : host)
        assert_true(value != value);
    cudaFree(device);
}

void copies_check_their_direction(void **)
{
    void *device = nullptr;
    char host[64];
    assert_int_equal(cudaMalloc(&device, sizeof host), cudaSuccess);
    assert_int_equal(cudaMemcpy(host, device, sizeof host, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(device, host, sizeof host, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpy(device, host, sizeof host, cudaMemcpyDefault), cudaSuccess);
    assert_int_equal(cudaMemset(host, 0, sizeof host), cudaErrorInvalidValue);
    cudaFree(device);
}

void launches_check_their_configuration(void **)
{
    static const struct {
        dim3 grid, block;
        size_t shared;
        cudaError_t expected;
    } cases[] = {
        {dim3(1),                        dim3(1024),  0,                                     cudaSuccess                                                                },
        {dim3(1),                        dim3(1025),  0,                                     cudaErrorInvalidConfiguration                                              },
        {dim3(0),                        dim3(32),    0,                                     cudaErrorInvalidConfiguration                                              },
        {dim3(1),                        dim3(0),     0,                                     cudaErrorInvalidConfiguration                                              },
        {dim3(1,                         65536),      dim3(32),                              0,                                                                           cudaErrorInvalidConfiguration},
        {dim3(1,                              1,                                    2),                                           dim3(2,                                                                                 2, 64), 0, cudaSuccess},
        {dim3(1),                             dim3(1,                                     1,                                                                         65),                                                         0, cudaErrorInvalidConfiguration},
        {dim3(1),                        dim3(32), 48 << 10, cudaSuccess},
        {dim3(1), dim3(32),            (48 << 10) + 1,                                           cudaErrorInvalidValue                                                                                      },
    };
    for (const auto &c : cases) {
        launch_nothing(c.grid, c.block, c.shared);
        assert_int_equal(cudaGetLastError(), c.expected);
    }
}

void more_shared_memory_needs_permission(void **)
{
    launch_nothing(dim3(1), dim3(32), 100 << 10);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(permit_nothing(100 << 10), cudaSuccess);
    launch_nothing(dim3(1), dim3(32), 100 << 10);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    assert_int_equal(permit_nothing(228 << 10), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_true(emulation_capability("8.6"));
    assert_int_equal(permit_nothing(100 << 10), cudaErrorInvalidValue); /* 99 KiB there */
}

void the_nth_call_fails(void **)
{
    void *p = nullptr;
    assert_true(emulation_fault("cudaMalloc:2:2:once"));
    assert_int_equal(cudaMalloc(&p, 16), cudaSuccess);
    cudaFree(p);
    assert_int_equal(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&p, 16), cudaSuccess);
    cudaFree(p);
    assert_int_equal(emulation_calls("cudaMalloc"), 3);
    assert_int_equal(emulation_calls(nullptr), 5);
}

void a_broken_device_stays_broken(void **)
{
    int devices = 0;
    assert_true(emulation_fault("launch:2:719"));
    launch_nothing(dim3(1), dim3(32), 0);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
    launch_nothing(dim3(1), dim3(32), 0);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetLastError(), cudaErrorLaunchFailure);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
    assert_int_equal(cudaGetDeviceCount(&devices), cudaErrorLaunchFailure);
    assert_string_equal(cudaGetErrorString(cudaErrorLaunchFailure), "unspecified launch failure");
    assert_string_equal(cudaGetErrorName(cudaErrorLaunchFailure), "cudaErrorLaunchFailure");
}

void memory_may_be_gone_for_ever(void **)
{
    void *p = nullptr;
    assert_true(emulation_fault("cudaMalloc:1:2"));
    for (int i = 0; i < 3; i++)
        assert_int_equal(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess); /* the rest of the device works */
}

void any_call_can_fail(void **)
{
    assert_true(emulation_fault("any:3:999:once"));
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_int_equal(cudaDeviceSynchronize(), cudaErrorUnknown);
    assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
    assert_false(emulation_fault("any"));
    assert_false(emulation_fault("any:0:2"));
    assert_false(emulation_fault("any:1:2:twice"));
}

void waiting_cannot_be_captured(void **)
{
    cudaStream_t stream;
    cudaGraph_t graph = nullptr;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    assert_int_equal(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
    cudaStreamDestroy(stream);
}

void a_stream_that_does_not_come_back_spoils_a_capture(void **)
{
    cudaStream_t a, b;
    cudaEvent_t event;
    cudaGraph_t graph = nullptr;
    void *memory = nullptr;
    cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaMalloc(&memory, 16);
    cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(event, a);
    cudaStreamWaitEvent(b, event, 0);
    cudaMemsetAsync(memory, 0, 16, b);
    assert_int_equal(cudaStreamEndCapture(b, &graph), cudaErrorStreamCaptureUnmatched);
    assert_int_equal(cudaStreamEndCapture(a, &graph), cudaErrorStreamCaptureUnjoined);
    cudaFree(memory);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    cudaEventDestroy(event);
}

void events_count_instead_of_measuring(void **)
{
    cudaEvent_t begin, end;
    float ms = 0.0f;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    cudaEventRecord(begin, nullptr);
    cudaEventRecord(end, nullptr);
    assert_int_equal(cudaEventElapsedTime(&ms, begin, end), cudaSuccess);
    assert_true(ms == 1.0f);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
}

void deferred_work_is_not_done_at_once(void **)
{
    int ready = 0, pending = 0;
    for (int seed = 0; seed < 20; seed++) {
        const char text[] = {'d', 'e', 'f', 'e', 'r', 'r', 'e', 'd', ':', static_cast<char>('0' + seed % 10), 0};
        assert_true(emulation_streams(text));
        cudaStream_t stream;
        void *memory = nullptr;
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        cudaMalloc(&memory, 16);
        for (int i = 0; i < 3; i++)
            cudaMemsetAsync(memory, i, 16, stream);
        const cudaError_t state = cudaStreamQuery(stream);
        ready += state == cudaSuccess;
        pending += state == cudaErrorNotReady;
        assert_int_equal(cudaStreamSynchronize(stream), cudaSuccess);
        assert_int_equal(cudaStreamQuery(stream), cudaSuccess);
        cudaFree(memory);
        cudaStreamDestroy(stream);
    }
    assert_int_equal(ready + pending, 20);
    assert_true(pending > 10);
}
} // namespace

int main()
{
#define TEST(name) cmocka_unit_test_setup(name, back_to_normal)
    const CMUnitTest tests[] = {
        TEST(the_device_is_what_was_asked_for),
        TEST(memory_ends_where_the_setting_says),
        TEST(fresh_memory_is_not_a_number),
        TEST(copies_check_their_direction),
        TEST(launches_check_their_configuration),
        TEST(more_shared_memory_needs_permission),
        TEST(the_nth_call_fails),
        TEST(a_broken_device_stays_broken),
        TEST(memory_may_be_gone_for_ever),
        TEST(any_call_can_fail),
        TEST(waiting_cannot_be_captured),
        TEST(a_stream_that_does_not_come_back_spoils_a_capture),
        TEST(events_count_instead_of_measuring),
        TEST(deferred_work_is_not_done_at_once),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
