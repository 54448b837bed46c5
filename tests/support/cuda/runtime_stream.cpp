/* runtime_stream.cpp - streams, events and waiting of the CUDA runtime. */
#include "block.h"
#include "fault.h"
#include "settings.h"
#include "stream.h"

using namespace emu;

namespace
{
/* Waiting cannot be captured. */
cudaError_t refuse_if_capturing(const CUstream_st *stream)
{
    if (stream == nullptr ? stream_capturing() : stream->graph != nullptr) return keep(stream_refuse_capture());
    return cudaSuccess;
}

void check_recorded(const char *what, const CUevent_st *event)
{
    if (event->mark == nullptr) report(what, 0, "an event that nobody has recorded: waiting for it waits for nothing");
}
} // namespace

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    ENTER();
    *out = stream_create(flags != cudaStreamNonBlocking);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *out)
{
    ENTER();
    *out = stream_create(true);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int)
{
    ENTER();
    *out = stream_create(flags != cudaStreamNonBlocking);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    ENTER();
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER();
    if (stream == nullptr || !stream_known(stream)) return keep(cudaErrorInvalidResourceHandle);
    stream_destroy(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER();
    if (!stream_known(stream)) return keep(cudaErrorInvalidResourceHandle);
    if (const cudaError_t e = refuse_if_capturing(stream_of(stream))) return e;
    stream_drain(stream_of(stream));
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER();
    if (const cudaError_t e = refuse_if_capturing(nullptr)) return e;
    stream_drain(nullptr);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER();
    if (const cudaError_t e = refuse_if_capturing(stream_of(stream))) return e;
    stream_step();
    return stream_pending(stream_of(stream)) ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    ENTER();
    return stream_enqueue(
        stream, "cudaLaunchHostFunc", [=] { function(data); }, true);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    ENTER();
    *out = new CUevent_st();
    (*out)->timing = (flags & cudaEventDisableTiming) == 0;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *out)
{
    ENTER();
    *out = new CUevent_st();
    (*out)->timing = true;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER();
    if (event == nullptr) return keep(cudaErrorInvalidResourceHandle);
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER();
    if (event == nullptr || !stream_known(stream)) return keep(cudaErrorInvalidResourceHandle);
    stream_record(stream_of(stream), event);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    ENTER();
    if (event == nullptr || !stream_known(stream)) return keep(cudaErrorInvalidResourceHandle);
    check_recorded(__func__, event);
    return keep(stream_wait(stream_of(stream), event));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER();
    if (event == nullptr) return keep(cudaErrorInvalidResourceHandle);
    if (event->graph != nullptr) return keep(stream_refuse_capture());
    check_recorded(__func__, event);
    stream_drain_mark(event->mark, __func__);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER();
    if (event == nullptr) return keep(cudaErrorInvalidResourceHandle);
    check_recorded(__func__, event);
    stream_step();
    return event->mark->done ? cudaSuccess : cudaErrorNotReady;
}

/* Not time, which would make tests depend on the machine: how many events were recorded in between, in ms. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    ENTER();
    if (begin == nullptr || end == nullptr || !begin->timing || !end->timing)
        return keep(cudaErrorInvalidResourceHandle);
    check_recorded(__func__, begin);
    check_recorded(__func__, end);
    if (!begin->mark->done || !end->mark->done) return keep(cudaErrorNotReady);
    *ms = static_cast<float>(end->tick - begin->tick);
    return cudaSuccess;
}
