/*
 * Speed and memory of one training step and of generation, without an optimizer.
 *
 * bench_step MODEL [TOKENS] [bf16|f32] [KEPT_LAYERS] [GENERATED] [THREADS]
 *
 * MODEL is a folder or GGUF file. A row of TOKENS random tokens, all trained, rank 16 on all linear modules. Prints
 * tokens per second (median), how the time divides between forward with loss and backward, and peak resident memory
 * after loading, after the steps, and after generation.
 */
#include "base/log.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { STEPS = 5, TOKENS_MAX = 1 << 16 };

static Err err;

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if (!(call)) {                                                                                                 \
            log_err(&err);                                                                                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Of all threads: what a busy machine does not blur. */
static double cpu_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double peak_mb(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_maxrss / 1024;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

static int32_t ids[TOKENS_MAX], targets[TOKENS_MAX], positions[TOKENS_MAX], starts[2];

static Batch random_row(int64_t n, int64_t vocab)
{
    for (int64_t i = 0; i < n; i++) {
        ids[i] = (int32_t)(rng_u32((RngKey){.seed = 1, .purpose = RNG_TEST}, (uint64_t)i) % (uint64_t)vocab);
        positions[i] = (int32_t)i;
        if (i > 0) targets[i - 1] = ids[i];
    }
    targets[n - 1] = TARGET_NONE;
    starts[1] = (int32_t)n;
    return (Batch){n, n - 1, 1, ids, targets, positions, starts};
}

static void place(Backend *be, Model *m, ModelArenas *a)
{
    Arena *const all[] = {&a->weights, &a->state, &a->activations, &a->scratch};
    model_place(m, a);
    for (int i = 0; i < 4; i++) {
        printf("  %-12s %8.1f MB\n", all[i]->name, (double)all[i]->peak / 1048576);
        all[i]->used = 0;
        MUST(backend_arena_reserve(be, all[i], all[i]->peak, &err));
    }
    model_place(m, a);
}

static void steps(Model *m, const Batch *b)
{
    double whole[STEPS], forward[STEPS], cpu[STEPS];
    model_zero_grads(m);
    model_train(m, b, b->trained_tokens, 0, 0);
    for (int i = 0; i < STEPS; i++) {
        double t = now();
        model_evaluate(m, b);
        forward[i] = now() - t;
        t = now();
        cpu[i] = cpu_now();
        model_train(m, b, b->trained_tokens, i, 0);
        whole[i] = now() - t;
        cpu[i] = cpu_now() - cpu[i];
    }
    const double step = median(whole, STEPS), first = median(forward, STEPS);
    printf("step %.3f s (processor time %.3f), %.0f tok/s; forward and loss %.0f %%, backward %.0f %%; peak %.0f MB\n",
           step, median(cpu, STEPS), (double)b->tokens / step, 100 * first / step, 100 - 100 * first / step, peak_mb());
}

static void generate(Model *m, int64_t prompt, int64_t count, float *logits)
{
    double t = now();
    model_prefill(m, 0, ids, prompt, logits);
    printf("prefill of %lld tokens %.0f tok/s\n", (long long)prompt, (double)prompt / (now() - t));
    const double cpu = cpu_now();
    t = now();
    for (int64_t i = 0; i < count; i++)
        model_decode(m, &ids[i], 1, logits);
    const double spent = (cpu_now() - cpu) * 1e3 / (double)count;
    printf("generation %.1f tok/s (processor time %.2f ms a token); peak %.0f MB\n", (double)count / (now() - t), spent,
           peak_mb());
}

int main(int argc, char **argv)
{
    const int64_t tokens = argc > 2 ? atoll(argv[2]) : 512, generated = argc > 5 ? atoll(argv[5]) : 0;
    const ModelOptions options = {
        .compute = argc > 3 && strcmp(argv[3], "f32") == 0 ? DTYPE_F32 : DTYPE_BF16,
        .quantize = true,
        .quant = {.type = QUANT_NF4, .block = 64, .double_quant = true},
        .adapters = true,
        .lora = {.r = 16,                 .alpha = 32                     },
        .training = true,
        .max_tokens = tokens,
        .kept_layers = argc > 4 ? atoi(argv[4]) : 1000,
        .seed = 1,
        .cache_tokens = generated ? generated + 64 : 0,
        .decoded_weights = getenv("DECODED") != NULL,
    };
    Backend *be;
    ModelSource *source;
    Model *m;
    ModelArenas arenas = {{.name = "weights"}, {.name = "state"}, {.name = "activations"}, {.name = "scratch"}};
    const double started = now();
    if (argc < 2 || tokens < 2 || tokens > TOKENS_MAX) return 2;
    MUST(backend_open(&be, &(BackendOptions){.kind = BACKEND_CPU, .threads = argc > 6 ? atoi(argv[6]) : 0}, &err));
    printf("%s, %s, %lld tokens\n", backend_name(be), dtype_name(options.compute), (long long)tokens);
    MUST(source_open(&source, argv[1], true, &err));
    MUST(model_create(&m, be, source, &options, &err));
    place(be, m, &arenas);
    MUST(model_load(m, source, &err));
    printf("loaded in %.2f s; peak %.0f MB\n", now() - started, peak_mb());
    const Batch b = random_row(tokens, model_spec(m)->vocab);
    steps(m, &b);
    if (generated) {
        float *logits = calloc((size_t)model_spec(m)->vocab, sizeof *logits);
        if (logits) generate(m, 32 < tokens ? 32 : tokens, generated, logits);
        free(logits);
    }
    model_free(m);
    source_close(source);
    backend_arena_release(be, &arenas.weights);
    backend_arena_release(be, &arenas.state);
    backend_arena_release(be, &arenas.activations);
    backend_arena_release(be, &arenas.scratch);
    backend_close(be);
    return 0;
}
