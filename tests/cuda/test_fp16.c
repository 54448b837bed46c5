/* Training in fp16 with a dynamic loss scale: how close it is, what an overflow does, and that a resume changes nothing. */
#define SCENE_UPDATES 20
#include "tests/e2e/scene.h"

static Scene scene;
static const char *const fp16[] = {"bnb_4bit_compute_dtype=fp16", NULL};

static int open_scene(void **state)
{
    (void)state;
    scene_open(&scene);
    return 0;
}

static int close_scene(void **state)
{
    (void)state;
    scene_close(&scene);
    return 0;
}

/* What metrics.jsonl says of the scale at each update. */
typedef struct Scales {
    double factor[SCENE_STEPS + 1];
    bool applied[SCENE_STEPS + 1];
    int overflows[SCENE_STEPS + 1];
} Scales;

static Scales scales_read(void)
{
    Scales s = {0};
    char path[512], line[8192];
    scene_path(path, &scene, "run/metrics.jsonl");
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        json_t *row = json_loads(line, 0, NULL);
        assert_non_null(row);
        const json_int_t step = json_integer_value(json_object_get(row, "step"));
        if (json_object_get(row, "loss_scale")) {
            assert_in_range(step, 1, SCENE_STEPS);
            s.factor[step] = json_number_value(json_object_get(row, "loss_scale"));
            s.applied[step] = json_is_true(json_object_get(row, "applied"));
            s.overflows[step] = (int)json_integer_value(json_object_get(row, "overflowed_updates"));
        }
        json_decref(row);
    }
    fclose(f);
    return s;
}

static json_t *final_state(void)
{
    char path[512];
    snprintf(path, sizeof path, "%s/run/checkpoint-%08d/trainer_state.json", scene.folder, SCENE_STEPS);
    json_t *o = json_load_file(path, 0, NULL);
    assert_non_null(o);
    return o;
}

/* Largest relative distance of losses and of gradient norms over all updates. */
static double distance(const Outcome *a, const Outcome *b)
{
    double most = 0;
    for (int step = 1; step <= SCENE_STEPS; step++) {
        most = fmax(most, fabs(a->loss[step] - b->loss[step]) / fabs(b->loss[step]));
        most = fmax(most, fabs(a->grad_norm[step] - b->grad_norm[step]) / fabs(b->grad_norm[step]) / 10);
        assert_true(isfinite(a->loss[step]) && isfinite(a->grad_norm[step]));
    }
    return most;
}

static void twenty_updates_are_closer_to_f32_than_those_of_bf16(void **state)
{
    (void)state;
    Outcome exact = scene_run(&scene, NULL, NULL);
    const Scales none = scales_read();
    Outcome half = scene_run(&scene, fp16, NULL);
    const Scales scaled = scales_read();
    Outcome wide = scene_run(&scene, (const char *const[]){"bnb_4bit_compute_dtype=bf16", NULL}, NULL);
    const double error = distance(&half, &exact), usual = distance(&wide, &exact);
    if (!(error <= 1e-3) || !(error <= usual)) fail_msg("fp16 is off by %g, bf16 by %g", error, usual);
    for (int step = 1; step <= SCENE_STEPS; step++) {
        assert_true(none.factor[step] == 1 && none.applied[step]);
        assert_true(scaled.factor[step] == 65536 && scaled.applied[step] && scaled.overflows[step] == 0);
    }
    outcome_free(&exact);
    outcome_free(&half);
    outcome_free(&wide);
}

/* The gradient of the loss alone is beyond fp16 with this scale: several updates are left out until it fits. */
static const ChildFault huge = {.first_loss_scale = 0x1p24};

static void an_overflow_halves_the_scale_and_the_run_goes_on(void **state)
{
    (void)state;
    Outcome o = scene_run(&scene, fp16, &huge);
    const Scales s = scales_read();
    int left_out = 0;
    double factor = 0x1p24;
    for (int step = 1; step <= SCENE_STEPS; step++) {
        assert_true(s.factor[step] == factor && isfinite(o.loss[step]));
        if (!s.applied[step]) {
            left_out++;
            factor /= 2;
        }
        assert_int_equal(s.overflows[step], left_out);
    }
    assert_in_range(left_out, 2, 10);
    assert_true(s.applied[SCENE_STEPS] && o.loss[SCENE_STEPS] < 0.9 * o.loss[1]);
    json_t *end = final_state();
    assert_true(json_real_value(json_object_get(end, "loss_scale")) == factor);
    assert_int_equal(json_integer_value(json_object_get(end, "overflowed_updates")), left_out);
    assert_int_equal(json_integer_value(json_object_get(end, "bad_updates")), 0); /* the watchdog saw none of it */
    assert_int_equal(json_integer_value(json_object_get(end, "withheld_updates")), 0);
    json_decref(end);
    outcome_free(&o);
}

static void a_resume_with_a_moving_scale_changes_no_bit(void **state)
{
    (void)state;
    Outcome straight = scene_run(&scene, fp16, &huge);
    const Scales want = scales_read();
    static const int64_t places[] = {3, 8, 21}; /* micro-batches; two an update */
    for (size_t i = 0; i < ARRAY_COUNT(places); i++) {
        ChildFault stop = huge;
        stop.interrupt_after = places[i];
        scene_forget_run(&scene);
        scene_train(&scene, fp16, &stop, 75);
        Outcome again;
        /* the scale is the checkpoint's, or this run would begin with another one */
        scene_train(&scene, fp16, NULL, 0);
        outcome_read(&again, &scene);
        const Scales got = scales_read();
        outcome_equal(&straight, &again);
        assert_memory_equal(got.factor, want.factor, sizeof want.factor);
        assert_memory_equal(got.overflows, want.overflows, sizeof want.overflows);
        outcome_free(&again);
    }
    outcome_free(&straight);
}

/* Whoever has no bf16 gets fp16 without asking, and instead of bf16. */
static void cards_without_bf16_train_in_fp16_by_default(void **state)
{
    (void)state;
    if (!getenv("QLORA_CUDA_EMULATED")) skip();
    static const char *const asked[] = {"bnb_4bit_compute_dtype=auto", "bnb_4bit_compute_dtype=bf16"};
    Outcome chosen = scene_run(&scene, fp16, NULL);
    assert_int_equal(setenv("QLORA_CUDA_CAPABILITY", "7.5", 1), 0);
    for (size_t i = 0; i < ARRAY_COUNT(asked); i++) {
        Outcome o = scene_run(&scene, (const char *const[]){asked[i], NULL}, NULL);
        const Scales s = scales_read();
        assert_true(s.factor[1] == 65536);
        assert_true(distance(&o, &chosen) < 1e-3);
        outcome_free(&o);
    }
    assert_int_equal(unsetenv("QLORA_CUDA_CAPABILITY"), 0);
    outcome_free(&chosen);
}

/* Puts `value` where element 5 of an F32 tensor stands; returns what stood there. */
static float patch(const char *name, float value)
{
    char path[512];
    scene_path(path, &scene, "model/model.safetensors");
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    uint64_t length;
    assert_int_equal(fread(&length, sizeof length, 1, f), 1);
    char *text = calloc(length + 1, 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, length, f), length);
    json_t *header = json_loads(text, 0, NULL);
    const json_t *places = json_object_get(json_object_get(header, name), "data_offsets");
    assert_non_null(places);
    const long at = (long)(8 + length) + (long)json_integer_value(json_array_get(places, 0)) + 5 * (long)sizeof value;
    float before;
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fread(&before, sizeof before, 1, f), 1);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fwrite(&value, sizeof value, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    json_decref(header);
    free(text);
    return before;
}

static void weights_beyond_fp16_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"model.norm.weight", "model.layers.0.mlp.up_proj.weight"};
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        const float before = patch(names[i], -65520.0f);
        scene_forget_run(&scene);
        scene_train(&scene, fp16, NULL, 4);
        Err err = {0};
        char *text = NULL;
        size_t n = 0;
        assert_true(file_read_all(&text, &n, scene.log, 1 << 20, ERR_DISK, &err));
        char want[128];
        snprintf(want, sizeof want, "tensor %s holds -65520 at row %d, column %d; fp16 ends at 65504", names[i],
                 i ? 0 : 5, i ? 5 : 0);
        if (!strstr(text, want)) fail_msg("not found: %s\n%s", want, text);
        mem_free(text);
        (void)patch(names[i], 65519.0f); /* rounds to 65504 */
        scene_forget_run(&scene);
        scene_train(&scene, (const char *const[]){"bnb_4bit_compute_dtype=fp16", "max_steps=1", NULL}, NULL, 0);
        (void)patch(names[i], before);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twenty_updates_are_closer_to_f32_than_those_of_bf16),
        cmocka_unit_test(an_overflow_halves_the_scale_and_the_run_goes_on),
        cmocka_unit_test(a_resume_with_a_moving_scale_changes_no_bit),
        cmocka_unit_test(cards_without_bf16_train_in_fp16_by_default),
        cmocka_unit_test(weights_beyond_fp16_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, open_scene, close_scene);
}
