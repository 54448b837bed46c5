/*
 * err.h - how a failure travels: one struct, filled where it happened, printed once in main.
 *
 * A function that can fail returns bool, takes `Err *err` last and is MUST_USE. Where the failure happens it says
 * `return FAIL(err, ERR_DATA, "...")`; callers pass it up and may add context with err_note. The text is a whole
 * sentence for the user (what, where, what to do) without a newline. Bugs of ours are CHECK (base/check.h), not Err.
 * Faults with a place in a text file (config, data) start with "FILE:LINE:COL: " and set `located`.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MUST_USE __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, rest) __attribute__((format(printf, text, rest)))

/* X(code, exit status of the program) */
#define ERR_CODES(X)                                                                                                   \
    X(ERR_NONE, 0)                                                                                                     \
    X(ERR_ARG, 2)        /* command line, or an argument that came from it */                                          \
    X(ERR_CONFIG, 2)     /* the configuration file */                                                                  \
    X(ERR_DATA, 3)       /* training or evaluation data */                                                             \
    X(ERR_MODEL, 4)      /* base model, tokenizer, adapter */                                                          \
    X(ERR_CHECKPOINT, 4) /* a checkpoint of ours */                                                                    \
    X(ERR_MEMORY, 5)                                                                                                   \
    X(ERR_DISK, 5) /* no space, no permission, I/O error while writing */                                              \
    X(ERR_DEVICE, 6)                                                                                                   \
    X(ERR_DIVERGED, 7)                                                                                                 \
    X(ERR_INTERRUPTED, 75) /* a signal asked to stop; the work is saved and can be resumed */

typedef enum ErrCode {
#define X(code, status) code,
    ERR_CODES(X)
#undef X
} ErrCode;

enum { ERR_TEXT_MAX = 4096 }; /* several faults of one config file travel together, one a line */

typedef struct Err {
    ErrCode code;     /* ERR_NONE until something failed */
    const char *file; /* source file where it was first raised; static text */
    int line;
    bool located; /* text starts with "FILE:LINE:COL: ", so main prints it without "qlora: " */
    char text[ERR_TEXT_MAX];
} Err;

/* Always false, so that `return FAIL(...)` reads well. The first failure wins: a second FAIL on the same Err is kept
 * out, because the first one is the cause. */
#define FAIL(err, code, ...) err_fail((err), (code), __FILE__, __LINE__, false, __VA_ARGS__)
#define FAIL_AT(err, code, ...) err_fail((err), (code), __FILE__, __LINE__, true, __VA_ARGS__)
bool err_fail(Err *err, ErrCode code, const char *file, int line, bool located, const char *format, ...)
    PRINTF_LIKE(6, 7);

/* Prepends "<context>: " to the text of a failure; always false. */
bool err_note(Err *err, const char *format, ...) PRINTF_LIKE(2, 3);

/* Back to ERR_NONE, for callers that recover. */
void err_clear(Err *err);

/* Exit status of the program for a code. */
int err_exit_status(ErrCode code);

/* `if (!(call)) goto fail`, for functions with one clean-up label. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if (!(call)) goto fail;                                                                                        \
    } while (0)

#ifdef __cplusplus
}
#endif
