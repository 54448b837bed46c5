/*
 * stream.h - queues of work, events and captured graphs.
 *
 * Eager: work runs when it is queued. Deferred: nothing runs before somebody must wait; ready streams then take turns
 * at random, kept apart only by events and by the rules of the legacy default stream. A missing wait shows by value.
 */
#pragma once

#include <cuda_runtime_api.h>

#include <deque>
#include <functional>
#include <memory>
#include <vector>

namespace emu
{
struct Mark {
    bool done = false;
};
using MarkRef = std::shared_ptr<Mark>;

struct Operation {
    const char *what;
    std::function<void()> work;
    std::vector<MarkRef> needs; /* run after these */
    MarkRef mark;               /* done after this */
    bool on_host;               /* a function of the host: device memory stays closed */
};

/* A node of a graph; it needs the nodes that it names by index. */
struct Node {
    Operation operation;
    std::vector<size_t> needs;
};
} // namespace emu

struct CUgraph_st {
    std::vector<emu::Node> nodes;
    CUstream_st *origin;
    bool invalid; /* something that cannot be captured was tried */
};

struct CUgraphExec_st {
    std::shared_ptr<std::vector<emu::Node>> nodes;
};

struct CUevent_st {
    emu::MarkRef mark;         /* null until it is recorded */
    CUgraph_st *graph;         /* where it was recorded, while capturing */
    std::vector<size_t> after; /* the nodes it stands for */
    unsigned long long tick;   /* in place of time */
    bool timing;
};

struct CUstream_st {
    bool blocking = false; /* ordered with the legacy default stream */
    std::deque<emu::Operation> queue;
    emu::MarkRef tail; /* of the last operation queued */
    CUgraph_st *graph = nullptr;
    std::vector<size_t> after; /* what the next node needs */
};

namespace emu
{
CUstream_st *stream_of(cudaStream_t handle);
bool stream_known(cudaStream_t handle);
CUstream_st *stream_create(bool blocking);
void stream_destroy(CUstream_st *stream);

/* Queues work, or adds it to the graph that is being captured. */
cudaError_t stream_enqueue(cudaStream_t handle, const char *what, std::function<void()> work, bool on_host = false);

/* Runs what is pending in one stream and whatever that needs; in all streams when null. */
void stream_drain(CUstream_st *stream);
void stream_drain_mark(const MarkRef &mark, const char *what);

bool stream_pending(const CUstream_st *stream); /* any stream when null */

/* Deferred: a ready operation may run while the host does something else. */
void stream_step();

void stream_record(CUstream_st *stream, CUevent_st *event);
cudaError_t stream_wait(CUstream_st *stream, CUevent_st *event);

/* True while any stream is capturing: calls that must not be captured fail. */
bool stream_capturing();
cudaError_t stream_refuse_capture();
void streams_leave(const CUgraph_st *graph); /* the capture is over */
} // namespace emu
