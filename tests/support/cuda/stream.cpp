#include "stream.h"
#include "block.h"
#include "device_memory.h"
#include "fault.h"
#include "sanitizers.h"
#include "settings.h"

#include <algorithm>

namespace emu
{
namespace
{
CUstream_st default_stream;
unsigned long long ticks;

std::vector<CUstream_st *> &streams()
{
    static auto *all = [] { /* never destroyed: a program may end with streams open */
                            default_stream.blocking = true;
                            return new std::vector<CUstream_st *>{&default_stream};
    }();
    return *all;
}

void run(Operation &operation)
{
    const Quiet quiet; /* kernels run in fibers of their own, which are watched */
    if (operation.work && operation.on_host) operation.work();
    if (operation.work && !operation.on_host) {
        const DeviceOpen open;
        operation.work();
    }
    if (operation.mark) operation.mark->done = true;
}

bool ready(const CUstream_st *stream)
{
    if (stream->queue.empty()) return false;
    const Operation &first = stream->queue.front();
    return std::all_of(first.needs.begin(), first.needs.end(), [](const MarkRef &mark) { return mark->done; });
}

/* Runs one ready operation of some stream; false when there is none. */
bool step_any()
{
    std::vector<CUstream_st *> candidates;
    for (CUstream_st *stream : streams())
        if (ready(stream)) candidates.push_back(stream);
    if (candidates.empty()) return false;
    CUstream_st *stream = candidates[stream_choose(candidates.size())];
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    run(operation);
    if (!stream_pending(nullptr)) managed_open();
    return true;
}

/* Work in the legacy default stream and in blocking streams waits for the other kind. */
void order_with_default(CUstream_st *stream, Operation *operation)
{
    if (!stream->blocking) return;
    for (CUstream_st *other : streams())
        if (other != stream && other->tail && other->blocking &&
            (stream == &default_stream || other == &default_stream))
            operation->needs.push_back(other->tail);
}

cudaError_t capture(CUstream_st *stream, Operation operation)
{
    stream->graph->nodes.push_back(Node{std::move(operation), stream->after});
    stream->after = {stream->graph->nodes.size() - 1};
    return cudaSuccess;
}
} // namespace

CUstream_st *stream_of(cudaStream_t handle)
{
    streams();
    return handle == nullptr || handle == cudaStreamLegacy ? &default_stream : handle;
}

bool stream_known(cudaStream_t handle)
{
    const auto &all = streams();
    return std::find(all.begin(), all.end(), stream_of(handle)) != all.end();
}

CUstream_st *stream_create(bool blocking)
{
    CUstream_st *stream = new CUstream_st();
    stream->blocking = blocking;
    streams().push_back(stream);
    return stream;
}

void stream_destroy(CUstream_st *stream)
{
    stream_drain(stream);
    auto &all = streams();
    all.erase(std::find(all.begin(), all.end(), stream));
    delete stream;
}

cudaError_t stream_enqueue(cudaStream_t handle, const char *what, std::function<void()> work, bool on_host)
{
    if (!stream_known(handle)) report(what, 0, "a stream that was destroyed or never created");
    CUstream_st *stream = stream_of(handle);
    Operation operation = {what, std::move(work), {}, std::make_shared<Mark>(), on_host};
    if (stream->graph != nullptr) return capture(stream, std::move(operation));
    if (stream == &default_stream && stream_capturing()) return keep(cudaErrorStreamCaptureImplicit);
    order_with_default(stream, &operation);
    stream->tail = operation.mark;
    if (!settings().deferred) {
        run(operation);
        return cudaSuccess;
    }
    managed_close();
    stream->queue.push_back(std::move(operation));
    stream_step();
    return cudaSuccess;
}

bool stream_pending(const CUstream_st *stream)
{
    for (const CUstream_st *one : streams())
        if ((stream == nullptr || stream == one) && !one->queue.empty()) return true;
    return false;
}

void stream_drain(CUstream_st *stream)
{
    while (stream_pending(stream))
        if (!step_any()) report("streams", 0, "streams wait for each other: an event is recorded behind its own wait");
}

void stream_drain_mark(const MarkRef &mark, const char *what)
{
    while (!mark->done)
        if (!step_any()) report(what, 0, "the event is never reached: streams wait for each other");
}

void stream_step()
{
    if (settings().deferred && stream_draw_below(4) == 0) step_any();
}

void stream_record(CUstream_st *stream, CUevent_st *event)
{
    event->tick = ++ticks;
    event->graph = stream->graph;
    if (stream->graph != nullptr) {
        event->after = stream->after;
        event->mark = std::make_shared<Mark>();
        event->mark->done = true;
        return;
    }
    /* Work before this point is done when the last operation is: recorded again later, the event means a later one. */
    event->mark = std::make_shared<Mark>();
    Operation operation = {"cudaEventRecord", nullptr, {}, event->mark, true};
    order_with_default(stream, &operation);
    stream->tail = event->mark;
    if (settings().deferred)
        stream->queue.push_back(std::move(operation));
    else
        event->mark->done = true;
}

cudaError_t stream_wait(CUstream_st *stream, CUevent_st *event)
{
    if (event->graph != nullptr) {
        if (stream->graph != nullptr && stream->graph != event->graph) return cudaErrorStreamCaptureMerge;
        stream->graph = event->graph; /* the stream joins the capture */
        stream->after.insert(stream->after.end(), event->after.begin(), event->after.end());
        return cudaSuccess;
    }
    if (stream->graph != nullptr) return cudaErrorStreamCaptureIsolation;
    Operation operation = {"cudaStreamWaitEvent", nullptr, {event->mark}, std::make_shared<Mark>(), true};
    if (settings().deferred) {
        stream->tail = operation.mark;
        stream->queue.push_back(std::move(operation));
    }
    return cudaSuccess;
}

bool stream_capturing()
{
    for (const CUstream_st *stream : streams())
        if (stream->graph != nullptr) return true;
    return false;
}

cudaError_t stream_refuse_capture()
{
    cudaError_t e = cudaSuccess;
    for (CUstream_st *stream : streams())
        if (stream->graph != nullptr) {
            stream->graph->invalid = true;
            e = cudaErrorStreamCaptureUnsupported;
        }
    return e;
}

void streams_leave(const CUgraph_st *graph)
{
    for (CUstream_st *stream : streams())
        if (stream->graph == graph) {
            stream->graph = nullptr;
            stream->after.clear();
        }
}
} // namespace emu
