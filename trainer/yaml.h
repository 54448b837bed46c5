/*
 * yaml.h - the part of YAML that configurations use, as a tree whose nodes know their place.
 *
 * Block and flow maps and lists, plain, quoted and block scalars, comments, one document. Anchors, aliases, tags,
 * merge keys, directives, further documents, tabs outside of quotes and comments, duplicate keys and keys that are not
 * texts are faults, and so are ill-formed UTF-8 and control characters. Scalars stay texts: what `2e-5` or `no` means
 * is for the schema to say. CRLF and a byte order mark are fine.
 * Limits: 256 KB, depth 16, 10,000 nodes.
 */
#pragma once

#include "trainer/config_faults.h"
#include "trainer/config_pool.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { YAML_BYTES_MAX = 256 * 1024, YAML_DEPTH_MAX = 16, YAML_NODES_MAX = 10000 };

typedef enum YamlKind { YAML_TEXT, YAML_LIST, YAML_MAP } YamlKind;

typedef struct YamlNode YamlNode;
struct YamlNode {
    YamlKind kind;
    FaultPlace place;
    const char *text; /* of a YAML_TEXT; NUL-terminated */
    size_t length;
    bool plain;      /* written without quotes */
    YamlNode *key;   /* of a value in a map */
    YamlNode *first; /* of a list or map */
    YamlNode *last;
    YamlNode *next; /* in the list or map it stands in */
    int count;      /* of a list or map */
};

/* Owns nodes and texts; a zeroed struct is empty. Several texts may be parsed into one. */
typedef struct YamlTree {
    ConfigPool pool;
    int nodes;
    bool broken; /* a text ended early; what came before is in its tree */
} YamlTree;
void yaml_tree_free(YamlTree *tree);

/*
 * The root of a document, or null when there is none. After a fault in the text the root holds what stood before it,
 * so that the rest can still be checked, and tree->broken says so. `origin` is null for the file itself, and the text
 * of the override otherwise; it must outlive the tree.
 */
YamlNode *yaml_parse(YamlTree *tree, const char *text, size_t length, const char *origin, ConfigFaults *faults);

/* A node made by us, at the place of another; null when memory is short. `text` is borrowed. */
YamlNode *yaml_make_text(YamlTree *tree, const char *text, FaultPlace place, Err *err);

/* Empty, ~ or null without quotes. */
bool yaml_is_null(const YamlNode *node);
bool yaml_is(const YamlNode *node, const char *text); /* a text that equals `text` */
YamlNode *yaml_find(const YamlNode *map, const char *key);

/* "a list", "a map", or the text itself in quotes, for messages; in out. */
const char *yaml_show(const YamlNode *node, char *out, size_t size);

#ifdef __cplusplus
}
#endif
