/* Gradients against central differences of the same loss written in double (reference.h). */
#include "tests/model/reference.h"

static const LoraOptions lora_all = {.r = 3, .alpha = 4, .init = LORA_INIT_KAIMING};

/* A few elements of every parameter: the numeric slope and ours, measured by the largest gradient of that tensor. */
static void compare_parameters(Reference *f, const RigBatch *b, const float *grads)
{
    const ParamTable *t = &model_lora(f->rig->model)->table;
    const double step = 1e-4, trained = (double)b->batch.trained_tokens;
    for (int i = 0; i < t->count; i++) {
        const Param *p = &t->items[i];
        const int64_t n = p->rows * p->cols;
        double most = 0;
        for (int64_t j = 0; j < n; j++)
            most = fmax(most, fabs((double)grads[p->offset + j]));
        assert_true(most > 0);
        for (int64_t j = 0; j < n; j += n / 5 + 1) {
            double *value = &f->params[p->offset + j];
            const double before = *value;
            *value = before + step;
            const double above = ref_loss(f, &b->batch);
            *value = before - step;
            const double below = ref_loss(f, &b->batch);
            *value = before;
            const double slope = (above - below) / (2 * step) / trained, ours = (double)grads[p->offset + j];
            if (!(fabs(slope - ours) <= 3e-5 * most))
                fail_msg("%s[%lld]: slope %.9g, gradient %.9g, largest %g", p->name, (long long)j, slope, ours, most);
        }
    }
}

static void check(const char *base, const LoraOptions *lora, float smoothing, int kept_layers)
{
    ModelOptions options = rig_options(DTYPE_F32, 32);
    options.quantize = false;
    options.adapters = true;
    options.lora = *lora;
    options.label_smoothing = smoothing;
    options.kept_layers = kept_layers;
    options.loss_rows = 5;
    Rig r = rig_open(base, NULL, options);
    rig_fill_adapters(&r, 0.3f);
    static RigBatch b;
    rig_batch_begin(&b);
    rig_batch_add(&b, 9, model_spec(r.model)->vocab, 1);
    rig_batch_add(&b, 6, model_spec(r.model)->vocab, 2);
    Reference f;
    ref_open(&f, &r);
    f.dropout = lora->dropout;
    f.smoothing = (double)smoothing;
    f.key = (RngKey){.seed = options.seed, .purpose = RNG_LORA_DROPOUT, .step = 3};
    double loss = 0;
    float *grads = rig_gradients(&r, &b, &loss);
    const double exact = ref_loss(&f, &b.batch);
    assert_true(fabs(loss - exact) <= 2e-6 * exact);
    compare_parameters(&f, &b, grads);
    free(grads);
    ref_close(&f);
    rig_close(&r);
}

static void gradients_equal_central_differences(void **state)
{
    (void)state;
    check("golden/data/model/plain", &lora_all, 0, 100);
    check("golden/data/model/bias", &lora_all, 0.1f, 1);
}

/* Ranks of 16 leave no gap between the A of a group: one product for all of them, for two of them, and around a module
 * without an adapter. */
static void gradients_of_joined_adapters_equal_central_differences(void **state)
{
    (void)state;
    static const LoraPattern odd[] = {
        {"q_proj",  3 },
        {"up_proj", 32}
    };
    static const char *const outer[] = {"q_proj", "v_proj", "gate_proj", "up_proj"};
    LoraOptions lora = lora_all;
    lora.r = 16;
    check("golden/data/model/plain", &lora, 0, 1);
    lora.rank_pattern = odd;
    lora.rank_pattern_count = ARRAY_COUNT(odd);
    check("golden/data/model/plain", &lora, 0, 100);
    lora.rank_pattern_count = 0;
    lora.targets = outer;
    lora.target_count = ARRAY_COUNT(outer);
    check("golden/data/model/bias", &lora, 0, 100);
}

static void gradients_go_through_the_dropout_masks(void **state)
{
    (void)state;
    LoraOptions lora = lora_all;
    lora.dropout = 0.25;
    check("golden/data/model/bias", &lora, 0, 100);
    check("golden/data/model/plain", &lora, 0, 1);
    lora.r = 16; /* no gap between neighbours: each has its own mask all the same */
    check("golden/data/model/plain", &lora, 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_equal_central_differences),
        cmocka_unit_test(gradients_of_joined_adapters_equal_central_differences),
        cmocka_unit_test(gradients_go_through_the_dropout_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
