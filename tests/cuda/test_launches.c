/* What the time of a step is computed from: as many kernels and products as step_launches says, no more. */
#include "tests/model/rig.h"
#include "tests/support/cuda/emulation.h"
#include "trainer/step_time.h"

long emulation_calls(const char *function) __attribute__((weak)); /* null on a real device */

static long calls(void)
{
    return emulation_calls("launch") + emulation_calls("cublasGemmEx");
}

typedef struct Case {
    const char *base;
    int r; /* 0: no adapters but for o_proj */
    double dropout;
    int kept_layers;
    bool layer_weights;
} Case;

static StepShape shape_of(const Rig *r, const Case *c, const Batch *batch, const ModelOptions *o, int *ranks)
{
    const Lora *lora = model_lora(r->model);
    for (int i = 0; i < lora->module_count; i++)
        ranks[i] = lora->of_module[i] >= 0 ? lora->adapters[lora->of_module[i]].r : 0;
    return (StepShape){
        .spec = model_spec(r->model),
        .ranks = ranks,
        .element_bytes = 2,
        .kept_layers = c->kept_layers,
        .tokens = (double)batch->tokens,
        .trained_share = (double)batch->trained_tokens / (double)batch->tokens,
        .head_rows = o->loss_rows,
        .layer_weights = c->layer_weights,
        .dropout = c->dropout > 0,
    };
}

/* Rows of the last chunk of the head: more than those that take another way (model/thin.h). */
enum { TRAINED_LEFT = 5 };

static void check(const Case *c)
{
    static const char *const only_o[] = {"o_proj"};
    ModelOptions options = rig_options(DTYPE_BF16, 32);
    options.adapters = true;
    options.lora = (LoraOptions){.r = c->r > 0 ? c->r : 16, .alpha = 16, .dropout = c->dropout};
    if (c->r == 0) options.lora.targets = only_o;
    if (c->r == 0) options.lora.target_count = 1;
    options.kept_layers = c->kept_layers;
    options.layer_weights = c->layer_weights;
    options.loss_rows = 6;
    Rig r = rig_open(c->base, NULL, options);
    static RigBatch b;
    rig_batch_begin(&b);
    rig_batch_add(&b, 15, model_spec(r.model)->vocab, 1);
    rig_batch_add(&b, 9, model_spec(r.model)->vocab, 2);
    assert_int_equal(b.batch.trained_tokens % options.loss_rows, TRAINED_LEFT);
    int ranks[8 * PROJ_COUNT];
    assert_true(model_lora(r.model)->module_count <= (int)ARRAY_COUNT(ranks));
    const StepShape s = shape_of(&r, c, &b.batch, &options, ranks);
    const long expected = (long)step_launches(&s);
    for (int micro = 0; micro < 2; micro++) {
        const long before = calls();
        (void)model_train(r.model, &b.batch, b.batch.trained_tokens, 3, micro);
        const long made = calls() - before;
        if (made != expected)
            fail_msg("%s, rank %d, dropout %g, %d kept, micro-batch %d: %ld launches, planned %ld", c->base, c->r,
                     c->dropout, c->kept_layers, micro, made, expected);
        model_params_changed(r.model);
    }
    rig_close(&r);
}

static void a_micro_batch_launches_what_the_plan_counts(void **state)
{
    (void)state;
    if (!emulation_calls) skip();
    static const Case cases[] = {
        {"golden/data/model/plain", 16, 0,    100, true },
        {"golden/data/model/plain", 16, 0,    0,   true },
        {"golden/data/model/plain", 16, 0,    1,   false},
        {"golden/data/model/plain", 16, 0,    100, false},
        {"golden/data/model/bias",  16, 0,    1,   true },
        {"golden/data/model/bias",  16, 0.1,  0,   true },
        {"golden/data/model/plain", 16, 0.25, 100, false},
        {"golden/data/model/plain", 0,  0,    0,   true },
        {"golden/data/model/bias",  0,  0.1,  100, true },
    };
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++)
        check(&cases[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_micro_batch_launches_what_the_plan_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
