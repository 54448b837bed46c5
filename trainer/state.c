#include "trainer/state.h"

#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { STATE_VERSION = 1, STATE_MAX = 1 << 20 };

/* X(member of RunState, key) */
#define STATE_COUNTS(X)                                                                                                \
    X(step, "global_step")                                                                                             \
    X(total_steps, "max_steps")                                                                                        \
    X(rows, "rows")                                                                                                    \
    X(tokens, "num_input_tokens_seen")                                                                                 \
    X(trained_tokens, "trained_tokens_seen")                                                                           \
    X(best_step, "best_global_step")                                                                                   \
    X(evals_without_gain, "evals_without_gain")                                                                        \
    X(watchdog.in_a_row, "bad_in_a_row")                                                                               \
    X(watchdog.total, "bad_updates")                                                                                   \
    X(watchdog.withheld, "withheld_updates")                                                                           \
    X(watchdog.rollbacks, "rollbacks")                                                                                 \
    X(watchdog.first_bad, "first_bad_step")                                                                            \
    X(scale.good, "loss_scale_good_updates")                                                                           \
    X(scale.overflows, "overflowed_updates")
#define STATE_FLAGS(X)                                                                                                 \
    X(stopped_early, "stopped_early")                                                                                  \
    X(eval_pending, "eval_pending")                                                                                    \
    X(resumable, "resumable")
#define STATE_HASHES(X)                                                                                                \
    X(config_hash, "config_hash")                                                                                      \
    X(data_fingerprint, "data_fingerprint")                                                                            \
    X(base_fingerprint, "base_fingerprint")

char *state_to_json(const RunState *s, Err *err)
{
    json_begin();
    json_t *o = json_object();
    json_object_set_new(o, "version", json_integer(STATE_VERSION));
    json_object_set_new(o, "program", json_string("qlora " QLORA_VERSION));
#define X(member, key) json_object_set_new(o, key, json_integer(s->member));
    STATE_COUNTS(X)
#undef X
#define X(member, key) json_object_set_new(o, key, json_boolean(s->member));
    STATE_FLAGS(X)
#undef X
#define X(member, key) json_object_set_new(o, key, json_string(s->member));
    STATE_HASHES(X)
#undef X
    json_object_set_new(o, "epoch", json_real(s->epoch));
    json_object_set_new(o, "loss", s->has_loss ? json_real(s->loss) : json_null());
    json_object_set_new(o, "best_metric", s->has_best ? json_real(s->best_loss) : json_null());
    json_object_set_new(o, "loss_scale", s->scale.factor > 0 ? json_real(s->scale.factor) : json_null());
    char *text = json_print(o, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17), "trainer_state.json", err);
    json_decref(o);
    return text;
}

static bool read_count(int64_t *out, const json_t *o, const char *key, const char *path, Err *err)
{
    *out = -1;
    if (!json_get_int(out, o, key, 0, INT64_MAX, path, err)) return false;
    return *out >= 0 || FAIL(err, ERR_CHECKPOINT, "%s: \"%s\" is missing", path, key);
}

static bool read_flag(bool *out, const json_t *o, const char *key, const char *path, Err *err)
{
    if (!json_object_get(o, key)) return FAIL(err, ERR_CHECKPOINT, "%s: \"%s\" is missing", path, key);
    return json_get_bool(out, o, key, path, err);
}

static bool read_hash(char out[HASH_TEXT], const json_t *o, const char *key, const char *path, Err *err)
{
    const char *text = NULL;
    if (!json_get_text(&text, o, key, path, err)) return false;
    if (!text || strlen(text) >= HASH_TEXT) return FAIL(err, ERR_CHECKPOINT, "%s: \"%s\" is no hash", path, key);
    memcpy(out, text, strlen(text) + 1);
    return true;
}

static bool scale_is_sound(double factor)
{
    int exponent;
    return factor == 0 || (factor >= 1 && factor <= LOSS_SCALE_MOST && frexp(factor, &exponent) == 0.5);
}

static bool read_members(RunState *s, const json_t *o, const char *path, Err *err)
{
    int64_t version;
    if (!read_count(&version, o, "version", path, err)) return false;
    if (version != STATE_VERSION) {
        return FAIL(err, ERR_CHECKPOINT, "%s has version %lld, this program reads version %d", path, (long long)version,
                    STATE_VERSION);
    }
#define X(member, key)                                                                                                 \
    if (!read_count(&s->member, o, key, path, err)) return false;
    STATE_COUNTS(X)
#undef X
#define X(member, key)                                                                                                 \
    if (!read_flag(&s->member, o, key, path, err)) return false;
    STATE_FLAGS(X)
#undef X
#define X(member, key)                                                                                                 \
    if (!read_hash(s->member, o, key, path, err)) return false;
    STATE_HASHES(X)
#undef X
    if (json_is_real(json_object_get(o, "loss_scale")) && !json_get_real(&s->scale.factor, o, "loss_scale", path, err))
        return false;
    if (!scale_is_sound(s->scale.factor)) {
        return FAIL(err, ERR_CHECKPOINT, "%s: \"loss_scale\" is %g; it is a power of 2 up to %g", path, s->scale.factor,
                    LOSS_SCALE_MOST);
    }
    s->has_loss = json_is_real(json_object_get(o, "loss"));
    s->has_best = json_is_real(json_object_get(o, "best_metric"));
    return json_get_real(&s->epoch, o, "epoch", path, err) && json_get_real(&s->loss, o, "loss", path, err) &&
           json_get_real(&s->best_loss, o, "best_metric", path, err);
}

bool state_read(RunState *out, const char *path, Err *err)
{
    json_t *root = NULL;
    RunState s = {0};
    bool ok = json_parse_file(&root, path, STATE_MAX, ERR_CHECKPOINT, err) && read_members(&s, root, path, err);
    json_decref(root);
    if (!ok) {
        err->code = err->code == ERR_MEMORY ? ERR_MEMORY : ERR_CHECKPOINT; /* whatever class the getters gave it */
        return false;
    }
    *out = s;
    return true;
}
