#include "trainer/generate_text.h"

#include "base/mem.h"
#include "base/rng.h"
#include "trainer/process.h"

#include <stdlib.h>
#include <string.h>

/* One of the sequences that run side by side. */
typedef struct Slot {
    bool live;
    size_t prompt;
    int64_t limit;  /* tokens of the answer at most */
    int64_t tokens; /* so far */
    int32_t *ids;   /* (longest) */
} Slot;

struct Generator {
    Model *model;
    const Tokenizer *tokenizer;
    int64_t longest; /* prompt and answer together */
    int sequences;
    Sampling *how; /* (sequences) */
    Slot *slots;
    int32_t *ids;    /* (sequences * longest), shared out to the slots */
    int32_t *newest; /* (sequences): token that each slot appends next */
    GeneratorTotals totals;
};

bool generator_create(Generator **out, Model *m, const Tokenizer *t, int64_t longest, int sequences, Err *err)
{
    Generator *g = mem_alloc(1, sizeof *g, err);
    if (!g) return false;
    const size_t n = (size_t)sequences;
    g->model = m;
    g->tokenizer = t;
    g->longest = longest;
    g->sequences = sequences;
    g->how = mem_alloc(n, sizeof *g->how, err);
    g->slots = mem_alloc(n, sizeof *g->slots, err);
    g->ids = mem_alloc(n * (size_t)longest, sizeof *g->ids, err);
    g->newest = mem_alloc(n, sizeof *g->newest, err);
    if (!g->how || !g->slots || !g->ids || !g->newest) {
        generator_free(g);
        return false;
    }
    for (int i = 0; i < sequences; i++)
        g->slots[i].ids = g->ids + i * longest;
    *out = g;
    return true;
}

void generator_free(Generator *g)
{
    if (!g) return;
    mem_free(g->how);
    mem_free(g->slots);
    mem_free(g->ids);
    mem_free(g->newest);
    mem_free(g);
}

GeneratorTotals generator_totals(const Generator *g)
{
    return g->totals;
}

void generated_free(Generated *g)
{
    text_free(&g->text);
    *g = (Generated){0};
}

/* How slot i's next token is picked. */
static Sampling sample_of(const Slot *slot, const GenerateOptions *o)
{
    return (Sampling){
        .temperature = (float)o->temperature,
        .top_p = o->top_p,
        .key = {.seed = o->seed,
                .purpose = RNG_SAMPLING,
                .stream = (uint32_t)slot->prompt,
                .step = (uint64_t)slot->tokens},
    };
}

static bool stops(const Generator *g, int32_t id)
{
    const int32_t *ids = NULL;
    const size_t n = tokenizer_stop_ids(g->tokenizer, &ids);
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == id) return true;
    }
    return false;
}

/* What generator_run passes to its parts. */
typedef struct Work {
    Generator *g;
    const Prompt *prompts;
    size_t count, next; /* next: the first prompt that nobody has taken */
    const GenerateOptions *options;
    const GenerateEvents *events;
    Text text;    /* of the only prompt, while it is handed on in pieces */
    size_t shown; /* bytes of it handed on */
} Work;

static bool decode_slot(const Work *w, const Slot *slot, Text *out, Err *err)
{
    return tokenizer_decode(w->g->tokenizer, out, slot->ids, (size_t)slot->tokens, true, err);
}

static bool finish_slot(Work *w, Slot *slot, bool stopped, Err *err)
{
    slot->live = false;
    Generated made = {.tokens = slot->tokens, .stopped = stopped};
    if (!decode_slot(w, slot, &made.text, err)) return false;
    const GenerateEvents *e = w->events;
    if (e->piece && made.text.length > w->shown) {
        (void)e->piece(e->user, made.text.bytes + w->shown, made.text.length - w->shown);
    }
    w->shown = 0;
    if (e->done) return e->done(e->user, slot->prompt, &made, err);
    generated_free(&made);
    return true;
}

/* Length of the text without a character that may still be incomplete: "\xEF\xBF\xBD" at its end. */
static size_t settled(const Text *t)
{
    size_t n = t->length;
    while (n >= 3 && memcmp(t->bytes + n - 3, "\xEF\xBF\xBD", 3) == 0)
        n -= 3;
    return n;
}

/* Hands on what is new in the text of a single prompt; *go_on is false when its reader has enough. */
static bool hand_on(Work *w, const Slot *slot, bool *go_on, Err *err)
{
    if (!w->events->piece) return true;
    text_clear(&w->text);
    if (!decode_slot(w, slot, &w->text, err)) return false;
    const size_t end = settled(&w->text);
    if (end <= w->shown) return true;
    *go_on = w->events->piece(w->events->user, w->text.bytes + w->shown, end - w->shown);
    w->shown = end;
    return true;
}

/* Slot i goes on with that token. */
static bool grow(Work *w, int i, int32_t id, Err *err)
{
    Slot *slot = &w->g->slots[i];
    if (stops(w->g, id)) return finish_slot(w, slot, true, err);
    slot->ids[slot->tokens++] = w->g->newest[i] = id;
    w->g->totals.tokens++;
    bool go_on = true;
    if (!hand_on(w, slot, &go_on, err)) return false;
    return slot->tokens < slot->limit && go_on ? true : finish_slot(w, slot, false, err);
}

/* Reads the next prompt into slot i and takes the first token of its answer. */
static bool start(Work *w, int i, Err *err)
{
    Generator *g = w->g;
    const Prompt *p = &w->prompts[w->next];
    const int64_t room = g->longest - (int64_t)p->count;
    if (room < 1) {
        return FAIL(err, ERR_DATA, "a prompt of %zu tokens leaves no room for an answer: %lld fit", p->count,
                    (long long)g->longest);
    }
    g->slots[i].live = true;
    g->slots[i].prompt = w->next++;
    g->slots[i].tokens = 0;
    g->slots[i].limit = w->options->max_new_tokens < room ? w->options->max_new_tokens : room;
    const double before = process_seconds();
    const Sampling how = sample_of(&g->slots[i], w->options);
    const int32_t id = model_prefill_sample(g->model, i, p->ids, (int64_t)p->count, &how);
    g->totals.prompt_seconds += process_seconds() - before;
    g->totals.prompt_tokens += (int64_t)p->count;
    return grow(w, i, id, err);
}

/* Slots up to the last live one; those without work in between go on with a token that nobody reads. */
static int used_slots(Generator *g)
{
    int used = 0;
    for (int i = 0; i < g->sequences; i++) {
        if (g->slots[i].live) used = i + 1;
    }
    for (int i = 0; i < used; i++) {
        if (g->slots[i].live || model_cached(g->model, i) < g->longest) continue;
        const int32_t any = 0;
        const Sampling greedy = {0};
        (void)model_prefill_sample(g->model, i, &any, 1, &greedy); /* its cache is full: start it again */
    }
    return used;
}

bool generator_run(Generator *g, const Prompt *prompts, size_t count, const GenerateOptions *options,
                   const GenerateEvents *events, Err *err)
{
    Work w = {.g = g, .prompts = prompts, .count = count, .options = options, .events = events};
    CHECK(!events->piece || count <= 1);
    for (int i = 0; i < g->sequences; i++)
        g->slots[i].live = false;
    for (;;) {
        for (int i = 0; i < g->sequences; i++) {
            while (!g->slots[i].live && w.next < count)
                TRY(start(&w, i, err));
        }
        const int used = used_slots(g);
        if (used == 0) break;
        const double before = process_seconds();
        for (int i = 0; i < used; i++)
            g->how[i] = sample_of(&g->slots[i], options);
        model_decode_sample(g->model, g->newest, used, g->how, g->newest);
        g->totals.seconds += process_seconds() - before;
        for (int i = 0; i < used; i++) {
            if (g->slots[i].live) TRY(grow(&w, i, g->newest[i], err));
        }
    }
    text_free(&w.text);
    return true;
fail:
    text_free(&w.text);
    return false;
}
