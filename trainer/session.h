/*
 * session.h - what the commands that touch a model have open: backend, base model, tokenizer, data, model, optimizer.
 *
 * Open what a command needs, in the order of the functions below; session_close accepts any half-open session. The
 * model is created for measuring first (trainer/plan.h) and gets its storage in session_place.
 */
#pragma once

#include "data/dataset.h"
#include "trainer/settings.h"

typedef struct SessionOptions {
    BackendHooks hooks; /* tests; zeroed in production */
    bool reference;     /* plain matrix products */
    bool weights;       /* false: a plan, config.json is enough */
    int plan_for;       /* compute capability of a card (90: 9.0): sizes as there, nothing runs; 0: run here */
} SessionOptions;

typedef struct Session {
    const Config *config;
    Settings settings;
    Backend *backend;
    char *base_path; /* folder or file of the base model */
    ModelSource *source;
    char *tokenizer_path; /* folder or file that the tokenizer came from */
    Tokenizer *tokenizer;
    ChatTemplate *chat;
    Dataset *train;      /* null: none, or not asked for */
    Dataset *validation; /* null: none */
    Model *model;
    Adamw *optimizer; /* null without training */
    ModelArenas arenas;
    LoraConfigFile adapter; /* of session_use_adapter */
} Session;

/* Backend, settings, base model. */
bool session_open(Session *out, const Config *c, const SessionOptions *options, Err *err) MUST_USE;
void session_close(Session *s);
/* Model, optimizer and arenas only. */
void session_release(Session *s);

bool session_open_tokenizer(Session *s, Err *err) MUST_USE;
/* As above, but leaves tokenizer and chat null where the base model has no tokenizer.json and no other is named: data that
 * are ids already need none. */
bool session_open_tokenizer_if_any(Session *s, Err *err) MUST_USE;

/* Training data with its split; evaluation data. `training` false: only what evaluates. */
bool session_open_data(Session *s, bool training, Err *err) MUST_USE;

/* Model options for evaluation or generation: no gradients, and the shape of this adapter (null: none). */
bool session_use_adapter(Session *s, const char *folder, Err *err) MUST_USE;

/* Model and, when it trains, optimizer as settings.model says; replaces those there were. `page_path` is borrowed. */
bool session_create_model(Session *s, const char *page_path, Err *err) MUST_USE;

/* Bytes of the arenas without taking them. */
void session_measure(const Session *s, ModelArenas *measured);

/* Takes the arenas, streams the weights in, opens the optimizer's pages. */
bool session_place(Session *s, Err *err) MUST_USE;

/* Values of an adapter folder into the placed model. */
bool session_load_adapter(Session *s, const char *folder, Err *err) MUST_USE;
