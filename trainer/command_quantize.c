#include "base/mem.h"
#include "base/text.h"
#include "trainer/command.h"
#include "trainer/quantize.h"

#include <string.h>

enum { SKIP_MAX = 1024 };

/* "a,b" as a list; the pieces lie in *text. */
static bool split(const char *names, Text *text, const char *items[SKIP_MAX], int *count, Err *err)
{
    *count = 0;
    if (!names) return true;
    if (!text_add_z(text, names, err)) return false;
    char *rest = NULL;
    for (char *item = strtok_r(text->bytes, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        if (*count == SKIP_MAX) return FAIL(err, ERR_ARG, "--skip takes at most %d names", SKIP_MAX);
        items[(*count)++] = item;
    }
    return true;
}

static bool read_options(QuantOptions *out, const CommandLine *line, Err *err)
{
    const char *type = command_text(line, "type");
    int64_t block = 64;
    if (!command_int(line, "block", 32, 4096, &block, err)) return false;
    if ((block & (block - 1)) != 0) return FAIL(err, ERR_ARG, "--block must be a power of two from 32 to 4096");
    if (type && strcmp(type, "nf4") != 0 && strcmp(type, "fp4") != 0)
        return FAIL(err, ERR_ARG, "--type must be nf4 or fp4");
    *out = (QuantOptions){
        .type = type && strcmp(type, "fp4") == 0 ? QUANT_FP4 : QUANT_NF4,
        .block = (int)block,
        .double_quant = !command_flag(line, "no-double-quant"),
    };
    return true;
}

static bool run(const CommandLine *line, Err *err)
{
    QuantOptions options;
    Text names = {0};
    const char *skip[SKIP_MAX];
    int count = 0;
    const bool ok =
        read_options(&options, line, err) && split(command_text(line, "skip"), &names, skip, &count, err) &&
        quantize_folder(line->files[0], command_text(line, "revision"), line->files[1], &options, skip, count, err);
    text_free(&names);
    return ok;
}

static const CommandOption options[] = {
    {"type",            "nf4|fp4",    "code book; nf4 by default"                                                     },
    {"block",           "N",          "weights that share a scale: 32, 64 (default), 128, ... 4096"                   },
    {"no-double-quant", NULL,         "keep the scales in 32 bits"                                                    },
    {"skip",            "NAME[,...]", "linear modules that keep their type, like q_proj or model.layers.0.mlp.up_proj"},
    {"revision",        "NAME",       "branch, tag or commit of a model in the Hugging Face cache"                    },
};

const Command command_quantize = {
    .name = "quantize",
    .files = "MODEL OUT_DIR",
    .summary = "Write a model with 4-bit linear layers as a folder that transformers and qlora load",
    .details =
        "MODEL is whatever base_model takes. Embeddings, head, norms and biases keep their type. OUT_DIR must be\n"
        "new, empty, or an earlier result of this command.",
    .min_files = 2,
    .max_files = 2,
    .options = options,
    .option_count = 5,
    .run = run,
};
