#include "data/added_tokens.h"

#include "base/mem.h"
#include "data/charclass.h"

#include <string.h>

typedef struct TrieNode {
    uint32_t child, sibling; /* 0: none; node 0 is never used */
    uint32_t item;           /* position + 1 of the token that ends here; 0: none */
    unsigned char byte;
} TrieNode;

enum { TRIE_NODES_MOST = 16 * 1024 * 1024 };

void added_tokens_free(AddedTokens *a)
{
    for (size_t i = 0; i < a->count; i++) {
        text_free(&a->items[i].content);
        text_free(&a->items[i].shown);
    }
    mem_free(a->items);
    vocab_free(&a->index);
    mem_free(a->flags_of);
    added_tokens_forget_index(a);
    *a = (AddedTokens){0};
}

static bool set_flags(AddedTokens *a, int32_t id, size_t at, Err *err)
{
    const size_t old = a->flags_capacity;
    if (!mem_grow(&a->flags_of, &a->flags_capacity, (size_t)id + 1, sizeof *a->flags_of, err)) return false;
    memset(a->flags_of + old, 0, (a->flags_capacity - old) * sizeof *a->flags_of);
    a->flags_of[id] = (uint32_t)at + 1;
    return true;
}

bool added_tokens_add(AddedTokens *a, AddedToken *token, Err *err)
{
    if (token->id < 0 || token->id >= VOCAB_ID_MOST) {
        return FAIL(err, ERR_MODEL, "an added token has the id %d, which is outside 0..%d", token->id,
                    VOCAB_ID_MOST - 1);
    }
    const int32_t known = vocab_find(&a->index, token->content.bytes, token->content.length);
    const size_t at = known >= 0 ? (size_t)known : a->count;
    if (!mem_grow(&a->items, &a->capacity, a->count + 1, sizeof *a->items, err)) return false;
    if (!vocab_add(&a->index, token->content.bytes, token->content.length, (int64_t)at, err)) return false;
    if (!set_flags(a, token->id, at, err)) return false;
    if (known >= 0) {
        text_free(&a->items[at].content);
        text_free(&a->items[at].shown);
    }
    if (known < 0) a->count++;
    a->items[at] = *token;
    *token = (AddedToken){0};
    return true;
}

const AddedToken *added_tokens_by_text(const AddedTokens *a, const char *text, size_t length)
{
    const int32_t at = vocab_find(&a->index, text, length);
    return at < 0 ? NULL : &a->items[at];
}

const AddedToken *added_tokens_by_id(const AddedTokens *a, int32_t id)
{
    if (id < 0 || (size_t)id >= a->flags_capacity || !a->flags_of[id]) return NULL;
    return &a->items[a->flags_of[id] - 1];
}

/* Trie */

static uint32_t find_child(const TokenTrie *t, uint32_t node, unsigned char byte)
{
    uint32_t at = t->nodes[node].child;
    while (at && t->nodes[at].byte != byte)
        at = t->nodes[at].sibling;
    return at;
}

static uint32_t add_node(TokenTrie *t, unsigned char byte, Err *err)
{
    if (t->count >= TRIE_NODES_MOST) {
        (void)FAIL(err, ERR_MODEL, "the added tokens are longer than %d bytes together", TRIE_NODES_MOST);
        return 0;
    }
    if (!mem_grow(&t->nodes, &t->capacity, t->count + 2, sizeof *t->nodes, err)) return 0;
    if (t->count == 0) t->nodes[t->count++] = (TrieNode){0};
    t->nodes[t->count] = (TrieNode){.byte = byte};
    return (uint32_t)t->count++;
}

void added_tokens_forget_index(AddedTokens *a)
{
    mem_free(a->raw.nodes);
    mem_free(a->normalized.nodes);
    a->raw = a->normalized = (TokenTrie){0};
}

bool added_tokens_index(AddedTokens *a, size_t at, const char *text, size_t length, bool normalized, Err *err)
{
    TokenTrie *t = normalized ? &a->normalized : &a->raw;
    uint32_t node = 0;
    for (size_t i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)text[i];
        uint32_t next = i == 0 ? t->roots[byte] : find_child(t, node, byte);
        if (!next) {
            next = add_node(t, byte, err);
            if (!next) return false;
            if (i == 0) {
                t->roots[byte] = next;
            } else {
                t->nodes[next].sibling = t->nodes[node].child;
                t->nodes[node].child = next;
            }
        }
        node = next;
    }
    /* of two tokens with one text the first is found */
    if (node && !t->nodes[node].item) t->nodes[node].item = (uint32_t)at + 1;
    return true;
}

/* Longest token at `at`; its end, or 0 when there is none. */
static size_t match_at(const TokenTrie *t, const char *text, size_t at, size_t length, uint32_t *item)
{
    size_t end = 0;
    uint32_t node = t->roots[(unsigned char)text[at]];
    while (node) {
        at++;
        if (t->nodes[node].item) {
            *item = t->nodes[node].item - 1;
            end = at;
        }
        if (at >= length) break;
        node = find_child(t, node, (unsigned char)text[at]);
    }
    return end;
}

/* Flags */

static size_t last_char(const char *text, size_t end, uint32_t *c)
{
    size_t at = end - 1;
    while (((unsigned char)text[at] & 0xC0) == 0x80)
        at--;
    piece_char(text + at, c);
    return at;
}

static bool touches_word(const char *text, size_t begin, size_t end, size_t length)
{
    uint32_t c;
    if (begin > 0) {
        last_char(text, begin, &c);
        if (char_is_word(c)) return true;
    }
    if (end == length) return false;
    piece_char(text + end, &c);
    return char_is_word(c);
}

static size_t swallow_left(const char *text, size_t begin, size_t not_before)
{
    while (begin > not_before) {
        uint32_t c;
        const size_t at = last_char(text, begin, &c);
        if (!char_is_space(c)) break;
        begin = at;
    }
    return begin > not_before ? begin : not_before;
}

static size_t swallow_right(const char *text, size_t end, size_t length)
{
    while (end < length) {
        uint32_t c;
        const size_t n = piece_char(text + end, &c);
        if (!char_is_space(c)) break;
        end += n;
    }
    return end;
}

/*
 * `covered` is where the last match ended, blanks included. The search itself does not know about swallowed blanks: it
 * goes on right behind the matched text, so that a token inside of swallowed blanks is found as well, as in Hugging
 * Face.
 */
static bool split_piece(const AddedTokens *a, const TokenTrie *t, PieceList *out, const char *text, size_t base,
                        size_t length, Err *err)
{
    size_t covered = 0;
    for (size_t at = 0; at < length;) {
        uint32_t item = 0;
        const size_t found = match_at(t, text, at, length, &item);
        if (!found) {
            at++;
            continue;
        }
        const int32_t id = a->items[item].id;
        const AddedToken *flags = added_tokens_by_id(a, id);
        size_t begin = at;
        size_t end = found;
        at = found;
        if (flags->single_word && touches_word(text, begin, end, length)) continue;
        if (flags->lstrip) begin = swallow_left(text, begin, covered);
        if (flags->rstrip) end = swallow_right(text, end, length);
        if (covered < begin && !pieces_add(out, base + covered, base + begin, PIECE_TEXT, err)) return false;
        if (!pieces_add(out, base + begin, base + end, id, err)) return false;
        covered = end;
    }
    return pieces_add(out, base + covered, base + length, PIECE_TEXT, err);
}

bool added_tokens_split(const AddedTokens *a, bool normalized, Pieces *p, Err *err)
{
    const TokenTrie *t = normalized ? &a->normalized : &a->raw;
    if (t->count == 0) return true;
    for (size_t i = 0; i < p->list.count; i++) {
        const Piece piece = p->list.items[i];
        const bool done = piece.token != PIECE_TEXT
                              ? pieces_add(&p->next_list, piece.begin, piece.end, piece.token, err)
                              : split_piece(a, t, &p->next_list, p->text.bytes + piece.begin, piece.begin,
                                            piece.end - piece.begin, err);
        if (!done) return false;
    }
    pieces_take_list(p);
    return true;
}
