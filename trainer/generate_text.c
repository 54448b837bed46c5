#include "trainer/generate_text.h"

#include "base/mem.h"
#include "base/rng.h"
#include "trainer/process.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One entry of the vocabulary while sampling. */
typedef struct Candidate {
    float weight; /* e^((logit - highest) / temperature), not normalized */
    int32_t id;
} Candidate;

struct Generator {
    Model *model;
    const Tokenizer *tokenizer;
    int64_t vocabulary;
    int64_t max_tokens; /* of one prefill */
    int64_t longest;    /* prompt and answer together */
    float *logits;
    Candidate *candidates;
    int32_t *ids; /* the answer so far */
};

bool generator_create(Generator **out, Model *m, const Tokenizer *t, int64_t max_tokens, int64_t longest, Err *err)
{
    Generator *g = mem_alloc(1, sizeof *g, err);
    if (!g) return false;
    g->model = m;
    g->tokenizer = t;
    g->vocabulary = model_spec(m)->vocab;
    g->max_tokens = max_tokens;
    g->longest = longest;
    g->logits = mem_alloc((size_t)g->vocabulary, sizeof *g->logits, err);
    g->candidates = mem_alloc((size_t)g->vocabulary, sizeof *g->candidates, err);
    g->ids = mem_alloc((size_t)longest, sizeof *g->ids, err);
    if (!g->logits || !g->candidates || !g->ids) {
        generator_free(g);
        return false;
    }
    *out = g;
    return true;
}

void generator_free(Generator *g)
{
    if (!g) return;
    mem_free(g->logits);
    mem_free(g->candidates);
    mem_free(g->ids);
    mem_free(g);
}

void generated_free(Generated *g)
{
    text_free(&g->text);
    *g = (Generated){0};
}

static int32_t highest(const float *logits, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++) {
        if (logits[i] > logits[best]) best = i; /* the first of equals, as argmax */
    }
    return (int32_t)best;
}

static int by_weight(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* The smallest set of the likeliest tokens that holds top_p of the probability, then one of them. */
static int32_t draw(Generator *g, const GenerateOptions *o, RngKey key)
{
    const float top = g->logits[highest(g->logits, g->vocabulary)];
    double total = 0;
    for (int64_t i = 0; i < g->vocabulary; i++) {
        const float weight = expf((g->logits[i] - top) / (float)o->temperature);
        g->candidates[i] = (Candidate){.weight = weight, .id = (int32_t)i};
        total += (double)weight;
    }
    qsort(g->candidates, (size_t)g->vocabulary, sizeof *g->candidates, by_weight);
    double kept = 0;
    int64_t n = 0;
    while (n < g->vocabulary && (n == 0 || kept < o->top_p * total))
        kept += (double)g->candidates[n++].weight;
    double left = (double)rng_uniform(key, 0) * kept;
    for (int64_t i = 0; i < n; i++) {
        left -= (double)g->candidates[i].weight;
        if (left < 0) return g->candidates[i].id;
    }
    return g->candidates[n - 1].id;
}

static int32_t choose(Generator *g, const GenerateOptions *o, uint32_t index, int64_t position)
{
    if (o->temperature <= 0) return highest(g->logits, g->vocabulary);
    const RngKey key = {.seed = o->seed, .purpose = RNG_SAMPLING, .stream = index, .step = (uint64_t)position};
    return draw(g, o, key);
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

/* The prompt's logits: one prefill, and token by token what goes beyond a micro-batch. */
static void read_prompt(Generator *g, const Prompt *p)
{
    const int64_t count = (int64_t)p->count, first = count < g->max_tokens ? count : g->max_tokens;
    model_prefill(g->model, 0, p->ids, first, g->logits);
    for (int64_t i = first; i < count; i++)
        model_decode(g->model, p->ids + i, 1, g->logits);
}

/* Length of the text without a character that may still be incomplete: "\xEF\xBF\xBD" at its end. */
static size_t settled(const Text *t)
{
    size_t n = t->length;
    while (n >= 3 && memcmp(t->bytes + n - 3, "\xEF\xBF\xBD", 3) == 0)
        n -= 3;
    return n;
}

/* Decodes the answer so far and hands on what is new; *shown counts bytes handed on. */
static bool hand_on(Generator *g, int64_t tokens, bool last, GeneratePiece *piece, void *user, Text *text,
                    size_t *shown, bool *go_on, Err *err)
{
    text_clear(text);
    if (!tokenizer_decode(g->tokenizer, text, g->ids, (size_t)tokens, true, err)) return false;
    const size_t end = last ? text->length : settled(text);
    if (piece && end > *shown) {
        *go_on = piece(user, text->bytes + *shown, end - *shown);
        *shown = end;
    }
    return true;
}

bool generator_run(Generator *g, const Prompt *prompt, uint32_t index, const GenerateOptions *options,
                   GeneratePiece *piece, void *user, Generated *out, Err *err)
{
    const int64_t room = g->longest - (int64_t)prompt->count;
    const int64_t limit = options->max_new_tokens < room ? options->max_new_tokens : room;
    if (limit < 1) {
        return FAIL(err, ERR_DATA, "a prompt of %zu tokens leaves no room: at most %lld fit", prompt->count,
                    (long long)g->longest);
    }
    Generated made = {.prompt_tokens = (int64_t)prompt->count};
    size_t shown = 0;
    bool go_on = true;
    const double start = process_seconds();
    read_prompt(g, prompt);
    const double read = process_seconds();
    while (go_on && made.tokens < limit) {
        const int32_t id = choose(g, options, index, made.tokens);
        made.stopped = stops(g, id);
        if (made.stopped) break;
        g->ids[made.tokens++] = id;
        if (piece) TRY(hand_on(g, made.tokens, false, piece, user, &made.text, &shown, &go_on, err));
        if (made.tokens < limit) model_decode(g->model, &id, 1, g->logits);
    }
    TRY(hand_on(g, made.tokens, true, piece, user, &made.text, &shown, &go_on, err));
    made.prompt_seconds = read - start;
    made.seconds = process_seconds() - read;
    *out = made;
    return true;
fail:
    generated_free(&made);
    return false;
}
