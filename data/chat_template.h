/*
 * chat_template.h - what data/ knows about an open ChatTemplate beyond data/chat.h.
 */
#pragma once

#include "data/chat.h"
#include "data/chat_format.h"

struct ChatTemplate {
    ChatFormat format;
    const char *name; /* static */
    char *bos;        /* owned; text of the BOS token, empty when there is none */
    bool assumed;     /* plain only because the model has no template: chats are then refused */
};
