/*
 * graph.cpp - capture of streams and replay. A graph keeps the operations and what each of them needs; a replay is one
 * operation of its stream that runs the nodes in some order that respects these edges.
 */
#include "fault.h"
#include "settings.h"
#include "stream.h"

#include <algorithm>

using namespace emu;

namespace
{
/* Streams that joined by an event must have been joined back: the origin needs their last node, directly or not. */
bool reaches(const CUgraph_st *graph, const std::vector<size_t> &from, size_t node)
{
    std::vector<size_t> open = from;
    while (!open.empty()) {
        const size_t at = open.back();
        open.pop_back();
        if (at == node) return true;
        const auto &needs = graph->nodes[at].needs;
        open.insert(open.end(), needs.begin(), needs.end());
    }
    return false;
}

bool all_joined(const CUgraph_st *graph, const std::vector<size_t> &ends)
{
    for (size_t node = 0; node < graph->nodes.size(); node++)
        if (!reaches(graph, ends, node)) return false;
    return true;
}

void replay(std::vector<Node> &nodes)
{
    std::vector<bool> done(nodes.size(), false);
    for (size_t left = nodes.size(); left > 0; left--) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < nodes.size(); i++) {
            const auto &needs = nodes[i].needs;
            if (!done[i] && std::all_of(needs.begin(), needs.end(), [&](size_t n) { return done[n]; }))
                ready.push_back(i);
            if (!ready.empty() && !settings().deferred) break;
        }
        const size_t at = settings().deferred ? ready[stream_draw_below(ready.size())] : ready[0];
        if (nodes[at].operation.work) nodes[at].operation.work();
        done[at] = true;
    }
}
} // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode)
{
    ENTER();
    CUstream_st *stream = stream_of(handle);
    if (stream == stream_of(nullptr)) return keep(cudaErrorStreamCaptureUnsupported);
    if (stream->graph != nullptr) return keep(cudaErrorIllegalState);
    stream->graph = new CUgraph_st{{}, stream, false};
    stream->after.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *out)
{
    ENTER();
    CUstream_st *stream = stream_of(handle);
    *out = nullptr;
    CUgraph_st *graph = stream->graph;
    if (graph == nullptr) return keep(cudaErrorIllegalState);
    if (graph->origin != stream) return keep(cudaErrorStreamCaptureUnmatched);
    const bool joined = all_joined(graph, stream->after), valid = !graph->invalid;
    streams_leave(graph);
    if (!joined || !valid) {
        delete graph;
        return keep(valid ? cudaErrorStreamCaptureUnjoined : cudaErrorStreamCaptureInvalidated);
    }
    *out = graph;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *out)
{
    ENTER();
    const CUgraph_st *graph = stream_of(handle)->graph;
    *out = graph == nullptr ? cudaStreamCaptureStatusNone
           : graph->invalid ? cudaStreamCaptureStatusInvalidated
                            : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    ENTER();
    if (graph == nullptr) return keep(cudaErrorInvalidValue);
    *out = new CUgraphExec_st{std::make_shared<std::vector<Node>>(graph->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    ENTER();
    if (nodes != nullptr) return keep(cudaErrorNotSupported);
    *count = graph->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    ENTER();
    if (graph == nullptr) return keep(cudaErrorInvalidValue);
    return stream_enqueue(stream, "cudaGraphLaunch", [nodes = graph->nodes] { replay(*nodes); });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t)
{
    ENTER();
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    ENTER();
    delete graph; /* a replay that is pending keeps its nodes */
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    ENTER();
    delete graph;
    return cudaSuccess;
}
