#include "lora/match.h"

#include "base/text.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

bool lora_name_matches(const char *path, const char *item)
{
    const size_t length = strlen(path), tail = strlen(item);
    if (tail == 0 || tail > length || strcmp(path + length - tail, item) != 0) return false;
    return tail == length || path[length - tail - 1] == '.';
}

static bool compile(pcre2_code **out, const char *pattern, const char *key, Err *err)
{
    int code = 0;
    PCRE2_SIZE at = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_UTF,
                         &code, &at, NULL);
    if (*out) return true;
    PCRE2_UCHAR reason[128];
    pcre2_get_error_message(code, reason, sizeof reason);
    char shown[256];
    return FAIL(err, ERR_CONFIG, "%s: \"%s\" is no regular expression: %s at character %zu", key,
                text_printable(shown, sizeof shown, pattern, strlen(pattern)), (const char *)reason, (size_t)at);
}

bool match_regex(bool *matched, const char *pattern, const char *path, const char *key, Err *err)
{
    pcre2_code *code = NULL;
    if (!compile(&code, pattern, key, err)) return false;
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    if (!data) {
        pcre2_code_free(code);
        return FAIL(err, ERR_MEMORY, "%s: out of memory while matching", key);
    }
    const int result = pcre2_match(code, (PCRE2_SPTR)path, strlen(path), 0, 0, data, NULL);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    *matched = result >= 0;
    if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return true;
    char shown[256];
    return FAIL(err, ERR_CONFIG, "%s: matching \"%s\" takes too long; write a simpler pattern", key,
                text_printable(shown, sizeof shown, pattern, strlen(pattern)));
}

bool match_pattern(bool *matched, const char *pattern, const char *path, const char *key, Err *err)
{
    *matched = false;
    Text whole = {0};
    TRY(text_format(&whole, err, "(?:.*\\.)?(?:%s)", pattern));
    TRY(match_regex(matched, whole.bytes, path, key, err));
    text_free(&whole);
    return true;
fail:
    text_free(&whole);
    return false;
}

bool match_item(bool *matched, const char *item, bool alone, const char *path, const char *key, Err *err)
{
    *matched = lora_name_matches(path, item);
    return *matched || !alone || match_regex(matched, item, path, key, err);
}

bool match_list(bool *matched, const char *const *items, int count, const char *path, const char *key, Err *err)
{
    *matched = false;
    for (int i = 0; i < count && !*matched; i++) {
        if (!match_item(matched, items[i], count == 1, path, key, err)) return false;
    }
    return true;
}

static bool layer_chosen(const LoraOptions *o, int layer)
{
    if (!o->layers) return true;
    for (int i = 0; i < o->layer_count; i++) {
        if (o->layers[i] == layer) return true;
    }
    return false;
}

static bool in_list(const LoraOptions *o, const LoraModule *module, int *hits)
{
    bool matched = false;
    for (int i = 0; i < o->target_count; i++) {
        if (!lora_name_matches(module->path, o->targets[i])) continue;
        if (hits) hits[i]++;
        /* A whole path names its module whatever layers_to_transform says. */
        matched |= layer_chosen(o, module->layer) || strcmp(module->path, o->targets[i]) == 0;
    }
    return matched;
}

bool match_module(bool *matched, const LoraOptions *o, const LoraModule *module, int *hits, Err *err)
{
    bool out = false;
    *matched = false;
    if (!match_list(&out, o->exclude, o->exclude_count, module->path, "lora_exclude_modules", err)) return false;
    if (out) {
        /* An item that names only excluded modules is still no misspelt one. */
        if (o->targets) (void)in_list(o, module, hits);
        return true;
    }
    if (o->targets) {
        *matched = in_list(o, module, hits);
        return true;
    }
    if (o->target_regex && strcasecmp(o->target_regex, "all-linear") != 0)
        return match_regex(matched, o->target_regex, module->path, "lora_target_modules", err);
    *matched = layer_chosen(o, module->layer);
    return true;
}

static bool first_hit(double *value, const LoraPattern *patterns, int count, const char *path, const char *key,
                      Err *err)
{
    for (int i = 0; i < count; i++) {
        bool matched = false;
        if (!match_pattern(&matched, patterns[i].pattern, path, key, err)) return false;
        if (!matched) continue;
        *value = patterns[i].value;
        return true;
    }
    return true;
}

bool match_rank(int *r, const LoraOptions *o, const char *path, Err *err)
{
    double value = o->r;
    if (!first_hit(&value, o->rank_pattern, o->rank_pattern_count, path, "lora_rank_pattern", err)) return false;
    if (!(value >= 1) || value > LORA_RANK_MAX || value != floor(value))
        return FAIL(err, ERR_CONFIG, "the LoRA rank of %s is %g; it has to be a whole number from 1 to %d", path, value,
                    LORA_RANK_MAX);
    *r = (int)value;
    return true;
}

bool match_alpha(double *alpha, const LoraOptions *o, const char *path, Err *err)
{
    *alpha = o->alpha;
    if (!first_hit(alpha, o->alpha_pattern, o->alpha_pattern_count, path, "lora_alpha_pattern", err)) return false;
    if (!isfinite(*alpha)) return FAIL(err, ERR_CONFIG, "lora_alpha of %s is not a finite number", path);
    return true;
}
