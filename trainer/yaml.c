#include "trainer/yaml.h"

#include "base/mem.h"
#include "base/text.h"
#include "trainer/yaml_text.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

/*
 * libyaml's events come in the order of the text and nest without recursion; the stack of open lists and maps is ours,
 * and a text that nests deeper than YAML_DEPTH_MAX ends the parse at that event. So neither stack nor time grow with
 * hostile nesting: libyaml looks ahead no further than the 1,024 characters of a possible key.
 */
typedef struct Build {
    YamlTree *tree;
    const char *text;
    size_t length;
    const char *origin;
    ConfigFaults *faults;
    YamlNode *root;
    YamlNode *open[YAML_DEPTH_MAX];
    YamlNode *key[YAML_DEPTH_MAX]; /* a map's key that waits for its value */
    int depth;
    int documents;
    bool at_end;
    YamlSpan *spans; /* scalars so far */
    size_t span_count, span_capacity;
} Build;

void yaml_tree_free(YamlTree *tree)
{
    config_pool_free(&tree->pool);
    tree->nodes = 0;
}

YamlNode *yaml_make_text(YamlTree *tree, const char *text, FaultPlace place, Err *err)
{
    YamlNode *node = config_pool_alloc(&tree->pool, 1, sizeof *node, err);
    if (!node) return NULL;
    *node = (YamlNode){.kind = YAML_TEXT, .place = place, .text = text, .length = strlen(text), .plain = true};
    return node;
}

static FaultPlace place_of(const Build *b, const yaml_mark_t *mark)
{
    return (FaultPlace){b->origin, (int)mark->line + 1, (int)mark->column + 1};
}

static bool refuse(Build *b, const yaml_mark_t *mark, const char *what)
{
    config_fault(b->faults, place_of(b, mark), "%s", what);
    return false;
}

static YamlNode *node_make(Build *b, YamlKind kind, const yaml_mark_t *mark)
{
    if (b->tree->nodes == YAML_NODES_MAX) {
        config_fault(b->faults, place_of(b, mark), "more than %d values; a configuration is smaller", YAML_NODES_MAX);
        return NULL;
    }
    YamlNode *node = config_pool_alloc(&b->tree->pool, 1, sizeof *node, b->faults->err);
    if (!node) return NULL;
    *node = (YamlNode){.kind = kind, .place = place_of(b, mark)};
    b->tree->nodes++;
    return node;
}

static bool text_take(Build *b, YamlNode *node, const yaml_event_t *event)
{
    node->length = event->data.scalar.length;
    node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    const char *bytes = (const char *)event->data.scalar.value;
    const char *copy = config_pool_text(&b->tree->pool, bytes, node->length, b->faults->err);
    if (!copy) return false;
    node->text = copy;
    if (!mem_grow(&b->spans, &b->span_capacity, b->span_count + 1, sizeof b->spans[0], b->faults->err)) return false;
    b->spans[b->span_count++] = (YamlSpan){event->start_mark.index, event->end_mark.index, !node->plain};
    if (strlen(copy) != node->length) {
        return refuse(b, &event->start_mark,
                      "a text with the character U+0000 in it; no value of a configuration has one");
    }
    return true;
}

static bool key_take(Build *b, YamlNode *map, YamlNode *key)
{
    char shown[100];
    if (key->kind != YAML_TEXT) {
        config_fault(b->faults, key->place, "a %s cannot be a key; write key: value",
                     key->kind == YAML_LIST ? "list" : "map");
        return false;
    }
    if (key->plain && strcmp(key->text, "<<") == 0) {
        config_fault(b->faults, key->place, "merge keys (<<) are not supported; write the keys out");
    }
    const YamlNode *earlier = yaml_find(map, key->text);
    if (earlier) {
        config_fault(b->faults, key->place, "%s stands here a second time; line %d has it already",
                     yaml_show(key, shown, sizeof shown), earlier->key->place.line);
    }
    b->key[b->depth - 1] = key;
    return true;
}

/* Puts a node where it belongs: the root, an item of a list, a key or a value of a map. */
static bool node_place(Build *b, YamlNode *node)
{
    if (b->depth == 0) {
        b->root = node;
        return true;
    }
    YamlNode *parent = b->open[b->depth - 1];
    if (parent->kind == YAML_MAP) {
        YamlNode *key = b->key[b->depth - 1];
        if (!key) return key_take(b, parent, node);
        node->key = key;
        b->key[b->depth - 1] = NULL;
    }
    if (parent->last) {
        parent->last->next = node;
    } else {
        parent->first = node;
    }
    parent->last = node;
    parent->count++;
    return true;
}

static bool node_open(Build *b, YamlKind kind, const yaml_event_t *event)
{
    YamlNode *node = node_make(b, kind, &event->start_mark);
    if (!node || !node_place(b, node)) return false;
    if (b->depth == YAML_DEPTH_MAX) {
        config_fault(b->faults, node->place, "lists and maps inside one another more than %d deep", YAML_DEPTH_MAX);
        return false;
    }
    b->key[b->depth] = NULL;
    b->open[b->depth++] = node;
    return true;
}

static void check_marks(Build *b, const yaml_event_t *event, const yaml_char_t *anchor, const yaml_char_t *tag)
{
    if (anchor)
        (void)refuse(b, &event->start_mark, "anchors (&name) are not supported; write the value out where it is used");
    if (tag) (void)refuse(b, &event->start_mark, "tags (!name) are not supported; remove it");
}

static bool document_take(Build *b, const yaml_event_t *event)
{
    if (event->data.document_start.version_directive ||
        event->data.document_start.tag_directives.start != event->data.document_start.tag_directives.end) {
        return refuse(b, &event->start_mark, "directives (%) are not supported; remove the line");
    }
    if (b->documents++) return refuse(b, &event->start_mark, "a second document; a file holds one configuration");
    return true;
}

/* False ends the parse; the reason is among the faults. */
static bool event_take(Build *b, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT: return document_take(b, event);
    case YAML_ALIAS_EVENT:
        return refuse(b, &event->start_mark, "aliases (*name) are not supported; write the value out");
    case YAML_SCALAR_EVENT: {
        check_marks(b, event, event->data.scalar.anchor, event->data.scalar.tag);
        YamlNode *node = node_make(b, YAML_TEXT, &event->start_mark);
        return node && text_take(b, node, event) && node_place(b, node);
    }
    case YAML_SEQUENCE_START_EVENT:
        check_marks(b, event, event->data.sequence_start.anchor, event->data.sequence_start.tag);
        return node_open(b, YAML_LIST, event);
    case YAML_MAPPING_START_EVENT:
        check_marks(b, event, event->data.mapping_start.anchor, event->data.mapping_start.tag);
        return node_open(b, YAML_MAP, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT: b->depth--; return true;
    case YAML_STREAM_END_EVENT: b->at_end = true; return true;
    default: return true;
    }
}

/* What libyaml's words mean to somebody who writes a configuration. */
static const char *advice_for(const char *problem)
{
    static const struct {
        const char *problem, *advice;
    } table[] = {
        {"mapping values are not allowed",
         "a second \": \" in one line, or a wrong indentation; put texts that contain \": \" in quotes"},
        {"could not find expected ':'",           "a line without \": \", or a wrong indentation"      },
        {"did not find expected key",             "the indentation does not fit the lines above"       },
        {"did not find expected '-' indicator",   "the items of a list must stand below one another"   },
        {"did not find expected ',' or ']'",      "a list that starts with [ needs commas and a ]"     },
        {"did not find expected ',' or '}'",      "a map that starts with { needs commas and a }"      },
        {"found unexpected end of stream",        "a quote is not closed"                              },
        {"found character that cannot start any", "put the text in quotes"                             },
        {"found unknown escape character",        "write \\\\ for a backslash, or use single quotes"   },
        {"found undefined tag handle",            "tags (!name) are not supported; remove it"          },
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (strstr(problem, table[i].problem)) return table[i].advice;
    }
    return "check quotes, brackets and indentation";
}

static void report_syntax(Build *b, const yaml_parser_t *parser)
{
    const char *problem = parser->problem ? parser->problem : "unreadable";
    if (parser->error == YAML_MEMORY_ERROR) {
        (void)FAIL(b->faults->err, ERR_MEMORY, "out of host memory while reading a configuration");
    } else if (yaml_text_at(b->text, b->length, parser->problem_mark.index) == '\t') {
        (void)refuse(b, &parser->problem_mark, "a tab; indent and separate with spaces");
    } else {
        config_fault(b->faults, place_of(b, &parser->problem_mark), "not YAML (%s): %s", problem, advice_for(problem));
    }
}

static void events_read(Build *b, yaml_parser_t *parser)
{
    while (!b->at_end) {
        yaml_event_t event;
        if (!yaml_parser_parse(parser, &event)) {
            report_syntax(b, parser);
            return;
        }
        const bool go_on = event_take(b, &event);
        yaml_event_delete(&event);
        if (!go_on) return;
    }
}

YamlNode *yaml_parse(YamlTree *tree, const char *text, size_t length, const char *origin, ConfigFaults *faults)
{
    if (length > YAML_BYTES_MAX) {
        config_fault(faults, (FaultPlace){origin, 1, 1}, "%zu bytes; a configuration has at most %d", length,
                     YAML_BYTES_MAX);
        tree->broken = true;
        return NULL;
    }
    if (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        length -= 3;
    }
    if (!yaml_text_check(text, length, origin, faults)) {
        tree->broken = true;
        return NULL;
    }
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) {
        (void)FAIL(faults->err, ERR_MEMORY, "out of host memory while reading a configuration");
        return NULL;
    }
    Build b = {.tree = tree, .text = text, .length = length, .origin = origin, .faults = faults};
    yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, length);
    events_read(&b, &parser);
    yaml_parser_delete(&parser);
    if (b.at_end) yaml_text_check_tabs(text, length, b.spans, b.span_count, origin, faults);
    mem_free(b.spans);
    tree->broken = tree->broken || !b.at_end;
    return b.root;
}

bool yaml_is_null(const YamlNode *node)
{
    static const char *const words[] = {"", "~", "null", "Null", "NULL"};
    if (!node) return true;
    if (node->kind != YAML_TEXT || !node->plain) return false;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(node->text, words[i]) == 0) return true;
    }
    return false;
}

bool yaml_is(const YamlNode *node, const char *text)
{
    return node->kind == YAML_TEXT && strcmp(node->text, text) == 0;
}

YamlNode *yaml_find(const YamlNode *map, const char *key)
{
    for (YamlNode *value = map->first; value; value = value->next) {
        if (strcmp(value->key->text, key) == 0) return value;
    }
    return NULL;
}

const char *yaml_show(const YamlNode *node, char *out, size_t size)
{
    if (node->kind == YAML_LIST) {
        snprintf(out, size, "a list");
    } else if (node->kind == YAML_MAP) {
        snprintf(out, size, "a map");
    } else {
        char text[80];
        text_printable(text, sizeof text, node->text, node->length);
        snprintf(out, size, "\"%s\"", text);
    }
    return out;
}
