#include "trainer/plan_device.h"

#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>

#define X(term, name, words) {name, words},
static const struct {
    const char *name, *words;
} device_terms[DEVICE_MEMORY_COUNT] = {DEVICE_MEMORY_TERMS(X)}, host_terms[HOST_MEMORY_COUNT] = {HOST_MEMORY_TERMS(X)};
#undef X

const char *device_memory_name(DeviceMemoryTerm t)
{
    return device_terms[t].name;
}

const char *host_memory_name(HostMemoryTerm t)
{
    return host_terms[t].name;
}

/* ---- for people ---- */

static bool memory_line(Text *out, const char *words, uint64_t bytes, Err *err)
{
    return bytes == 0 || text_format(out, err, "  %-34s %10.1f MB\n", words, (double)bytes / 1e6);
}

static bool memory_text(const DevicePlan *p, Text *out, Err *err)
{
    if (!text_format(out, err, "memory of the card (%s, %.1f GB)\n", p->card.name, (double)p->card.memory_bytes / 1e9))
        return false;
    for (int i = 0; i < DEVICE_MEMORY_COUNT; i++) {
        if (!memory_line(out, device_terms[i].words, p->memory.bytes[i], err)) return false;
    }
    if (!memory_line(out, "peak", p->memory.peak, err)) return false;
    if (!text_add_z(out, "memory of the host\n", err)) return false;
    for (int i = 0; i < HOST_MEMORY_COUNT; i++) {
        if (!memory_line(out, host_terms[i].words, p->host[i], err)) return false;
    }
    return memory_line(out, "peak", p->host_peak, err);
}

static bool verdict_text(const DevicePlan *p, Text *out, Err *err)
{
    if (!p->fits && p->memory.peak <= p->budget) {
        return text_format(out, err,
                           "DOES NOT FIT: %.2f GB of host memory are needed and %.2f GB may be used; what follows is "
                           "for a host with enough memory\n",
                           (double)p->host_peak / 1e9, (double)p->host_budget / 1e9);
    }
    if (!p->fits) {
        return text_format(out, err,
                           "DOES NOT FIT: %.2f GB are needed and %.2f GB may be used; what follows is for a card with "
                           "enough memory\n",
                           (double)p->memory.peak / 1e9, (double)p->budget / 1e9);
    }
    return text_format(out, err, "fits: %.2f GB of the %.2f GB that may be used\n", (double)p->memory.peak / 1e9,
                       (double)p->budget / 1e9);
}

static bool limits_text(const DevicePlan *p, Text *out, Err *err)
{
    if (!plan_layers_text(&p->counts, out, err) ||
        !text_format(out, err,
                     "largest that fits: sequence_len %" PRId64 " at micro_batch_size 1, micro_batch_size %" PRId64
                     " at this sequence_len\n",
                     p->max_sequence_len, p->max_micro_batch_size)) {
        return false;
    }
    if (p->limits_offloaded &&
        !text_format(out, err, "  (with up to %.1f GB of pinned host memory; memory_budget bounds it)\n",
                     (double)p->limits_offloaded / 1e9)) {
        return false;
    }
    return p->max_sequence_len == p->sequence_len_by_memory ||
           text_format(out, err, "  (memory would allow %" PRId64 " tokens; the model has %" PRId64 " positions)\n",
                       p->sequence_len_by_memory, p->max_sequence_len);
}

bool plan_device_text(const DevicePlan *p, const Session *s, Text *out, Err *err)
{
    return plan_model_text(&p->counts, out, err) && plan_data_text(s, out, err) && memory_text(p, out, err) &&
           verdict_text(p, out, err) && limits_text(p, out, err) &&
           plan_time_text(&p->time, p->counts.total_steps, out, err) &&
           text_add_z(out, "  (no figure of it was measured on such a card)\n", err) &&
           plan_updates_text(&p->counts, s, out, err);
}

bool plan_device_heading(Text *out, Err *err)
{
    return text_add_z(out,
                      "card        memory   needed  fits   kept layers   tokens/s  longest row  most rows   minutes\n"
                      "                GB       GB                      (estimated)\n",
                      err);
}

bool plan_device_line(const DevicePlan *p, Text *out, Err *err)
{
    return text_format(out, err, "%-10s %7.1f  %7.1f  %-4s   %5d of %-3d  %9.0f  %11" PRId64 "  %9" PRId64 "  %8.1f\n",
                       p->card.name, (double)p->card.memory_bytes / 1e9, (double)p->memory.peak / 1e9,
                       p->fits ? "yes" : "no", p->kept_layers, p->counts.layers, step_tokens_per_second(&p->time),
                       p->max_sequence_len, p->max_micro_batch_size,
                       p->time.total * (double)p->counts.total_steps / 60);
}

/* ---- for scripts ---- */

static json_t *integer(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *memory_json(const uint64_t *bytes, int count, bool host)
{
    json_t *o = json_object();
    for (int i = 0; o && i < count; i++)
        json_object_set_new(o, host ? host_terms[i].name : device_terms[i].name, integer(bytes[i]));
    return o;
}

static json_t *card_json(const DeviceCard *c)
{
    return json_pack("{s:f, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:b}", "capability",
                     (double)c->capability / 10, "processors", c->processors, "memory", (json_int_t)c->memory_bytes,
                     "context", (json_int_t)c->context_bytes, "workspace", (json_int_t)c->workspace_bytes, "l2",
                     (json_int_t)c->l2_bytes, "matmul", c->matmul, "bandwidth", c->bandwidth, "attention",
                     c->attention_forward, "attention-backward", c->attention_backward, "link", c->link, "changed",
                     c->changed);
}

static void add_memory(json_t *o, const DevicePlan *p)
{
    json_object_set_new(o, "fits", json_boolean(p->fits));
    json_object_set_new(o, "peak_memory_bytes", integer(p->memory.peak));
    json_object_set_new(o, "memory", memory_json(p->memory.bytes, DEVICE_MEMORY_COUNT, false));
    json_object_set_new(o, "host_memory_bytes", integer(p->host_peak));
    json_object_set_new(o, "host_memory", memory_json(p->host, HOST_MEMORY_COUNT, true));
    json_object_set_new(o, "budget_bytes", integer(p->budget));
    json_object_set_new(o, "max_sequence_len", json_integer(p->max_sequence_len));
    json_object_set_new(o, "max_sequence_len_by_memory", json_integer(p->sequence_len_by_memory));
    json_object_set_new(o, "max_micro_batch_size", json_integer(p->max_micro_batch_size));
    json_object_set_new(o, "max_offloaded_bytes", integer(p->limits_offloaded));
}

static void add_run(json_t *o, const DevicePlan *p, const Session *s)
{
    const Plan *c = &p->counts;
    json_object_set_new(o, "kept_layers", json_integer(p->kept_layers));
    json_object_set_new(o, "offloaded_layers", json_integer(p->offloaded_layers));
    json_object_set_new(o, "layers", json_integer(c->layers));
    json_object_set_new(o, "max_tokens", json_integer(c->max_tokens));
    json_object_set_new(o, "trainable_parameters", json_integer(c->model.trainable));
    json_object_set_new(o, "total_parameters", json_integer(c->model.total));
    json_object_set_new(o, "quantized_modules", json_integer(c->model.quantized));
    json_object_set_new(o, "rows", json_integer(c->rows));
    json_object_set_new(o, "total_steps", json_integer(c->total_steps));
    json_object_set_new(o, "trained_tokens", json_integer(c->trained_tokens));
    if (s->train) json_object_set_new(o, "samples", json_integer(dataset_samples(s->train)));
    if (c->total_steps) json_object_set_new(o, "run_seconds", json_real(p->time.total * (double)c->total_steps));
}

bool plan_device_json(const DevicePlan *p, const Session *s, Text *out, Err *err)
{
    json_begin();
    json_t *o = json_object();
    if (o) {
        json_object_set_new(o, "device", json_string(p->card.name));
        add_memory(o, p);
        plan_time_json(o, &p->time);
        add_run(o, p, s);
        json_object_set_new(o, "card", card_json(&p->card));
        json_object_set_new(o, "estimated", json_true());
    }
    char *text = json_print(o, JSON_COMPACT, "the plan", err);
    const bool ok = text && text_add_z(out, text, err);
    mem_free(text);
    json_decref(o);
    return ok;
}
