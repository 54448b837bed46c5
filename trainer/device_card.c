#include "trainer/device_card.h"

#include "base/check.h"
#include "base/text.h"
#include "trainer/config_scalar.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MIB (1ULL << 20)
#define TERA 1e12
#define GIGA 1e9

/* name, capability, processors, memory and context and cuBLAS workspace and L2 in MiB, products, copies, attention
 * forward and backward, link, launch */
#define CARD(name, cc, sm, memory, context, workspace, l2, tera, giga, forward, backward, link, us)                    \
    {                                                                                                                  \
        name, cc, sm, (memory)*MIB, (context)*MIB, (workspace)*MIB, (l2)*MIB, (tera)*TERA, (giga)*GIGA,                \
            (forward)*TERA, (backward)*TERA, (link)*GIGA, (us)*1e-6, 0, false, false                                   \
    }

static const DeviceCard cards[] = {
    CARD("h100", 90, 132, 81559, 429, 32, 50, 700, 3000, 315, 265, 50, 2.5),
    CARD("h100-pcie", 90, 114, 81559, 400, 32, 50, 480, 1750, 225, 190, 50, 2.5),
    CARD("h200", 90, 132, 143771, 429, 32, 50, 700, 4300, 315, 265, 50, 2.5),
    CARD("b200", 100, 148, 183359, 480, 32, 126, 1600, 6800, 350, 290, 50, 2.5),
    CARD("a100", 80, 108, 81920, 380, 8, 40, 260, 1750, 190, 155, 25, 2.5),
    CARD("a100-40gb", 80, 108, 40960, 380, 8, 40, 260, 1350, 190, 155, 25, 2.5),
    CARD("4090", 89, 128, 24564, 400, 8, 72, 150, 900, 110, 92, 25, 2.5),
    CARD("3090", 86, 82, 24576, 300, 8, 6, 62, 830, 48, 40, 25, 2.5),
    CARD("l4", 89, 58, 23034, 280, 8, 48, 60, 260, 44, 37, 25, 3.0),
    CARD("t4", 75, 40, 15360, 240, 8, 4, 28, 250, 18, 14, 12, 4.0),
};

static const struct {
    const char *other, *name;
} aliases[] = {
    {"h100-80gb", "h100"     },
    {"h100-sxm",  "h100"     },
    {"a100-80gb", "a100"     },
    {"a100-40",   "a100-40gb"},
    {"a100-80",   "a100"     },
    {"rtx4090",   "4090"     },
    {"rtx3090",   "3090"     },
    {"rtx-4090",  "4090"     },
    {"rtx-3090",  "3090"     },
};

/* A card given by hand starts from these; memory, matmul and bandwidth are asked for. */
static const DeviceCard by_hand = CARD("custom", 80, 100, 0, 400, 8, 32, 0, 0, 0, 0, 25, 2.5);

typedef enum KeyKind { KEY_SIZE, KEY_RATE, KEY_WHOLE, KEY_CAPABILITY } KeyKind;

static const struct {
    const char *name;
    KeyKind kind;
    size_t at;
    double unit;
    double low, high; /* in that unit */
} keys[] = {
    {"memory",             KEY_SIZE,       offsetof(DeviceCard, memory_bytes),       1,    0,    0   },
    {"matmul",             KEY_RATE,       offsetof(DeviceCard, matmul),             TERA, 1e-3, 1e6 },
    {"bandwidth",          KEY_RATE,       offsetof(DeviceCard, bandwidth),          GIGA, 0.1,  1e6 },
    {"link",               KEY_RATE,       offsetof(DeviceCard, link),               GIGA, 1e-3, 1e5 },
    {"attention",          KEY_RATE,       offsetof(DeviceCard, attention_forward),  TERA, 1e-3, 1e6 },
    {"attention-backward", KEY_RATE,       offsetof(DeviceCard, attention_backward), TERA, 1e-3, 1e6 },
    {"launch",             KEY_RATE,       offsetof(DeviceCard, launch),             1e-6, 0,    1e4 },
    {"capability",         KEY_CAPABILITY, offsetof(DeviceCard, capability),         10,   7.5,  19.9},
    {"processors",         KEY_WHOLE,      offsetof(DeviceCard, processors),         1,    1,    4096},
    {"l2",                 KEY_SIZE,       offsetof(DeviceCard, l2_bytes),           1,    0,    0   },
    {"context",            KEY_SIZE,       offsetof(DeviceCard, context_bytes),      1,    0,    0   },
    {"workspace",          KEY_SIZE,       offsetof(DeviceCard, workspace_bytes),    1,    0,    0   },
};

enum { WORD_MAX = 48, HAND_MATMUL_SHARE_PERCENT = 45 };

int device_card_count(void)
{
    return (int)ARRAY_COUNT(cards);
}

DeviceCard device_card_at(int i)
{
    CHECK(i >= 0 && i < device_card_count());
    return cards[i];
}

/* ---- names ---- */

/* At most half of a word is a slip. */
static int slips(const char *word, int most)
{
    const int half = (int)strlen(word) / 2;
    return (half < most ? half : most) + 1;
}

static void closer(const char **nearest, int *best, const char *name, const char *word)
{
    const int d = text_distance(word, name, *best - 1);
    if (d >= *best) return;
    *best = d;
    *nearest = name;
}

static bool find_card(DeviceCard *out, const char *word, Err *err)
{
    const char *name = word, *nearest = NULL;
    int best = slips(word, 2);
    for (size_t i = 0; i < ARRAY_COUNT(aliases); i++) {
        if (strcasecmp(word, aliases[i].other) == 0) name = aliases[i].name;
        closer(&nearest, &best, aliases[i].other, word);
    }
    for (size_t i = 0; i < ARRAY_COUNT(cards); i++) {
        if (strcasecmp(name, cards[i].name) == 0) {
            *out = cards[i];
            return true;
        }
        closer(&nearest, &best, cards[i].name, word);
    }
    if (strcasecmp(word, by_hand.name) == 0) {
        *out = by_hand;
        return true;
    }
    closer(&nearest, &best, by_hand.name, word);
    if (strcasecmp(word, "all") == 0) return FAIL(err, ERR_ARG, "--device: all lists every card and takes no figures");
    char shown[2 * WORD_MAX];
    text_printable(shown, sizeof shown, word, strlen(word));
    if (strchr(word, '='))
        return FAIL(err, ERR_ARG, "--device: \"%s\" is a figure; a card comes first, such as h100,%s or custom,%s",
                    shown, shown, shown);
    if (nearest) return FAIL(err, ERR_ARG, "--device: no figures for \"%s\"; did you mean \"%s\"?", shown, nearest);
    return FAIL(err, ERR_ARG,
                "--device: no figures for \"%s\"; there are h100, h200, b200, a100, 4090, 3090, l4, t4 and custom "
                "(\"qlora plan --help\" says how)",
                shown);
}

static int find_key(const char *word, Err *err)
{
    const char *nearest = NULL;
    int best = slips(word, 3);
    for (size_t i = 0; i < ARRAY_COUNT(keys); i++) {
        if (strcmp(word, keys[i].name) == 0) return (int)i;
        closer(&nearest, &best, keys[i].name, word);
    }
    char shown[2 * WORD_MAX];
    text_printable(shown, sizeof shown, word, strlen(word));
    (void)FAIL(err, ERR_ARG, "--device: unknown figure \"%s\"; %s%s%s\"qlora plan --help\" lists them", shown,
               nearest ? "did you mean \"" : "", nearest ? nearest : "", nearest ? "\"? " : "");
    return -1;
}

/* ---- values ---- */

static bool bad_value(const char *key, const char *value, const char *why, Err *err)
{
    char shown[2 * WORD_MAX];
    return FAIL(err, ERR_ARG, "--device: %s=%s %s", key, text_printable(shown, sizeof shown, value, strlen(value)),
                why);
}

static bool set_number(DeviceCard *card, int key, const char *value, Err *err)
{
    char *end = NULL;
    const double x = strtod(value, &end);
    if (end == value || *end || !(x >= keys[key].low) || !(x <= keys[key].high)) {
        char why[96];
        snprintf(why, sizeof why, "is not a number from %g to %g", keys[key].low, keys[key].high);
        return bad_value(keys[key].name, value, why, err);
    }
    char *to = (char *)card + keys[key].at;
    const double scaled = x * keys[key].unit;
    const int whole = (int)lround(scaled);
    if (keys[key].kind == KEY_WHOLE && x != whole) return bad_value(keys[key].name, value, "is no whole number", err);
    if (keys[key].kind == KEY_CAPABILITY && fabs(scaled - whole) > 1e-6)
        return bad_value(keys[key].name, value, "is no compute capability, such as 8.9", err);
    if (keys[key].kind == KEY_RATE)
        memcpy(to, &scaled, sizeof scaled);
    else
        memcpy(to, &whole, sizeof whole);
    return true;
}

static bool set_size(DeviceCard *card, int key, const char *value, Err *err)
{
    char why[WHY_MAX];
    int64_t bytes;
    if (!scalar_size(&bytes, value, why)) return bad_value(keys[key].name, value, why, err);
    const uint64_t unsigned_bytes = (uint64_t)bytes;
    memcpy((char *)card + keys[key].at, &unsigned_bytes, sizeof unsigned_bytes);
    return true;
}

static bool set_word(DeviceCard *card, char *word, unsigned *seen, Err *err)
{
    char *value = strchr(word, '=');
    if (!value) return FAIL(err, ERR_ARG, "--device: \"%s\" is not KEY=VALUE", word);
    *value++ = 0;
    const int key = find_key(word, err);
    if (key < 0) return false;
    if (*seen & 1u << key) return FAIL(err, ERR_ARG, "--device: %s stands twice", keys[key].name);
    *seen |= 1u << key;
    card->changed = true;
    return keys[key].kind == KEY_SIZE ? set_size(card, key, value, err) : set_number(card, key, value, err);
}

/* What was not given follows from what was. */
static bool complete(DeviceCard *card, Err *err)
{
    const char *missing = !card->memory_bytes    ? "memory=24GiB"
                          : card->matmul <= 0    ? "matmul=150 (TFLOP/s)"
                          : card->bandwidth <= 0 ? "bandwidth=900 (GB/s)"
                                                 : NULL;
    if (missing) return FAIL(err, ERR_ARG, "--device: %s needs %s", card->name, missing);
    if (card->attention_forward <= 0) card->attention_forward = card->matmul * HAND_MATMUL_SHARE_PERCENT / 100;
    if (card->attention_backward <= 0) card->attention_backward = card->attention_forward * 0.84;
    return true;
}

bool device_card_parse(DeviceCard *out, const char *text, Err *err)
{
    DeviceCard card;
    char word[WORD_MAX];
    unsigned seen = 0; /* keys */
    for (bool first = true; text; first = false) {
        const size_t length = strcspn(text, ",");
        if (length == 0 || length >= sizeof word) {
            return FAIL(err, ERR_ARG, "--device: write NAME or NAME,key=value,... such as h100 or 4090,memory=20GiB");
        }
        memcpy(word, text, length);
        word[length] = 0;
        if (!(first ? find_card(&card, word, err) : set_word(&card, word, &seen, err))) return false;
        text = text[length] ? text + length + 1 : NULL;
    }
    if (!complete(&card, err)) return false;
    *out = card;
    return true;
}

/* ---- the driver's names ---- */

bool device_card_of_driver(DeviceCard *out, const char *driver_name)
{
    static const struct {
        const char *part, *name;
    } names[] = {
        {"H100 PCIe", "h100-pcie"},
        {"H100",      "h100"     },
        {"H200",      "h200"     },
        {"B200",      "b200"     },
        {"40GB",      "a100-40gb"}, /* "NVIDIA A100-SXM4-40GB" */
        {"A100",      "a100"     },
        {"RTX 4090",  "4090"     },
        {"RTX 3090",  "3090"     },
        {"Tesla T4",  "t4"       },
        {"NVIDIA L4", "l4"       },
    };
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        const char *at = strstr(driver_name, names[i].part);
        if (!at || isalnum((unsigned char)at[strlen(names[i].part)])) continue; /* an L40 is no L4 */
        Err ignored = {0};
        return find_card(out, names[i].name, &ignored);
    }
    return false;
}
