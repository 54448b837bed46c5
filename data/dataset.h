/*
 * dataset.h - files of samples to token ids with targets, once; then any micro-batch by its number.
 *
 * dataset_open reads all sources (JSONL, JSON array, gzip of either; a file, a glob, a folder), detects or takes the
 * shape of a row (chat, sharegpt, alpaca, prompt_completion, text, pretokenized), renders, tokenizes on all cores,
 * masks, drops or cuts what is too long, and writes one memory-mapped token cache keyed by a hash of everything that
 * changes it (files, tokenizer, template, options). A second run maps the cache.
 * Counts of what was dropped, and why, are in DatasetStats. A set without a trained token is ERR_DATA.
 * Errors in rows are located: "FILE:LINE:COL: ...".
 */
#pragma once

#include "base/batch.h"
#include "base/err.h"
#include "data/chat.h"
#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ExcessLength { EXCESS_DROP, EXCESS_TRUNCATE, EXCESS_SPLIT, EXCESS_ERROR } ExcessLength;
typedef enum TrainOnEos { TRAIN_EOS_TURN, TRAIN_EOS_LAST, TRAIN_EOS_ALL, TRAIN_EOS_NONE } TrainOnEos;

typedef struct DataPair {
    const char *key;
    const char *value;
} DataPair;

typedef struct DataSource {
    const char *path;           /* file, glob or folder */
    const char *type;           /* null or "auto": detect per file; "chat"/"chat_template"/"messages", "sharegpt",
                                   "alpaca", "prompt_completion"/"completion", "text", "pretokenized" */
    const char *split;          /* accepted: null, "train", "train[:100]", "train[10%:]" */
    const char *field_messages; /* column with the turns; null: "messages" or "conversations" */
    const DataPair *properties; /* message_property_mappings: role -> "from", content -> "value" */
    int property_count;
    const DataPair *roles; /* alias -> role: "gpt" -> "assistant" */
    int role_count;
    const char *const *roles_to_train; /* null: assistant */
    int roles_to_train_count;
    TrainOnEos train_on_eos;
    double weight;       /* share in the mix; 1: every sample once an epoch; 0.5: half of them; 2: each twice */
    int64_t max_samples; /* 0: all */
} DataSource;

typedef struct DataOptions {
    const DataSource *sources;
    int source_count;
    int64_t sequence_len; /* longest sample, and the size of a packed row */
    ExcessLength excess;
    bool train_on_inputs;
    bool mask_history; /* only the last assistant turn counts */
    bool dedupe;       /* drop samples equal to an earlier one */
    bool packing;      /* several samples a row; false: one sample a row */
    bool shuffle;
    uint64_t seed;
    int threads;              /* 0: all cores */
    const char *cache_folder; /* null: no cache file, tokens stay in memory */
    int32_t vocab_size;       /* of the model: ids at or above it are ERR_DATA; 0: not checked */
} DataOptions;

typedef struct DatasetStats {
    int64_t rows_read;      /* records in the files */
    int64_t samples;        /* kept */
    int64_t tokens;         /* of the kept samples */
    int64_t trained_tokens; /* targets */
    int64_t too_long, truncated, split;
    int64_t without_target; /* dropped: no trained token */
    int64_t duplicates;
    int64_t longest;    /* tokens, before dropping */
    int64_t straddling; /* tokens that lie across the border of a trained span */
    bool from_cache;
} DatasetStats;

typedef struct Dataset Dataset;

/* `t` and `chat` may be null where all records are ids already; ERR_MODEL at the first that is not. */
bool dataset_open(Dataset **out, const DataOptions *options, const Tokenizer *t, const ChatTemplate *chat,
                  Err *err) MUST_USE;
void dataset_close(Dataset *d);
const DatasetStats *dataset_stats(const Dataset *d);
const char *dataset_fingerprint(const Dataset *d); /* 32 hexadecimal digits */

/* Moves a share (0 < x < 1) or a count (x >= 1) of the samples into a second set, chosen by the seed. Both keep the
 * file's order. The second set borrows the tokens of the first: close it first. ERR_DATA when either would be empty. */
bool dataset_split(Dataset *d, Dataset **validation, double size, Err *err) MUST_USE;

/* Sample i in file order: ids and labels (label[k] is for token k itself: TARGET_NONE where not trained). Borrowed. */
typedef struct Sample {
    const int32_t *ids;
    const int32_t *labels;
    int64_t tokens;
} Sample;
int64_t dataset_samples(const Dataset *d);
Sample dataset_sample(const Dataset *d, int64_t i);

/* Where sample i was read: file and line (from 1). The path is borrowed. */
typedef struct SamplePlace {
    const char *path;
    int64_t line;
} SamplePlace;
SamplePlace dataset_sample_place(const Dataset *d, int64_t i);

/* Samples of low <= tokens < high, for a histogram. */
int64_t dataset_count_lengths(const Dataset *d, int64_t low, int64_t high);

/* Rows: a row is one sample, or several packed ones of together at most sequence_len tokens. The rows of an epoch are
 * the same in every epoch; their order is a permutation of (seed, epoch), or the file's order without shuffle. */
int64_t dataset_rows(const Dataset *d);
int64_t dataset_row_trained(const Dataset *d, int64_t epoch,
                            int64_t row); /* targets of one row, O(1) or O(samples in it) */

/* Number of the k-th sample in that row, -1 behind the last one. */
int64_t dataset_row_sample(const Dataset *d, int64_t epoch, int64_t row, int64_t k);

/* A micro-batch: rows [first, first + count) of the endless sequence epoch 0, epoch 1, ... (row number = epoch *
 * dataset_rows + position). O(1) to reach. Buffers belong to the cursor and hold `micro_batch_size` full rows. */
typedef struct BatchCursor BatchCursor;
bool batch_cursor_create(BatchCursor **out, const Dataset *d, int64_t micro_batch_size, Err *err) MUST_USE;
void batch_cursor_free(BatchCursor *c);
int64_t batch_cursor_capacity(const BatchCursor *c); /* most tokens a batch can have */
void batch_cursor_get(BatchCursor *c, int64_t first_row, int64_t count, Batch *out);

#ifdef __cplusplus
}
#endif
