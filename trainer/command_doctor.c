#include "backend/backend.h"
#include "backend/host_memory.h"
#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "trainer/command.h"
#include "trainer/device.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <oneapi/dnnl/dnnl.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>
#include <xxhash.h>
#include <yaml.h>
#include <zlib.h>

typedef struct Report {
    json_t *object; /* null: print lines */
} Report;

static void tell(Report *r, const char *key, const char *value)
{
    if (r->object) {
        json_object_set_new(r->object, key, json_string(value));
    } else {
        printf("%-12s %s\n", key, value);
    }
}

/* x86 features as /proc/cpuinfo names them, the ones that change speed */
static void cpu_features(char *out, size_t size)
{
    static const struct Feature {
        const char *flag, *shown;
    } features[] = {
        {" avx2 ",        "AVX2"       },
        {" avx512f ",     "AVX-512"    },
        {" avx512_bf16 ", "AVX512_BF16"},
        {" amx_bf16 ",    "AMX_BF16"   },
    };
    out[0] = '\0';
    char line[8192] = "";
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "flags", 5) != 0)
        line[0] = '\0';
    if (f) fclose(f);
    line[strcspn(line, "\n")] = ' ';
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        if (!strstr(line, features[i].flag)) continue;
        const size_t used = strlen(out);
        snprintf(out + used, size - used, "%s%s", used ? ", " : "", features[i].shown);
    }
    if (!out[0]) snprintf(out, size, "none that matter; training will be slow");
}

static bool tell_backend(Report *r, Err *err)
{
    const BackendOptions options = {.kind = BACKEND_CPU};
    Backend *be = NULL;
    if (!backend_open(&be, &options, err)) return false;
    char text[256];
    snprintf(text, sizeof text, "%s; computes in %s by default", backend_name(be),
             backend_preferred_dtype(be) == DTYPE_BF16 ? "bf16" : "f32");
    tell(r, "device", text);
    backend_close(be);
    char cuda[ERR_TEXT_MAX + 64];
    device_describe_cuda(cuda, sizeof cuda);
    tell(r, "cuda", cuda);
    return true;
}

static void tell_libraries(Report *r)
{
    char text[512], regex[64] = "?";
    pcre2_config(PCRE2_CONFIG_VERSION, regex);
    regex[strcspn(regex, " ")] = '\0';
    const dnnl_version_t *dnnl = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d, PCRE2 %s, jansson %s, libyaml %s, zlib %s, utf8proc %s, xxHash %u",
             dnnl->major, dnnl->minor, dnnl->patch, regex, jansson_version_str(), yaml_get_version_string(),
             zlibVersion(), utf8proc_version(), XXH_versionNumber());
    tell(r, "libraries", text);
}

static void tell_disk(Report *r)
{
    uint64_t bytes = 0;
    char text[256];
    Err ignored = {0};
    if (file_free_space(&bytes, ".", &ignored)) {
        snprintf(text, sizeof text, "%.1f GB free in the current folder%s", (double)bytes / 1e9,
                 access(".", W_OK) == 0 ? "" : ", which is not writable");
    } else {
        snprintf(text, sizeof text, "unknown: %.200s", ignored.text);
    }
    tell(r, "disk", text);
}

/* Where a name like "org/model" is looked for: the order of the Hugging Face libraries. */
static void tell_cache(Report *r)
{
    char path[1024], text[1200];
    const char *hub = getenv("HF_HUB_CACHE"), *home = getenv("HF_HOME"), *xdg = getenv("XDG_CACHE_HOME");
    if (hub && hub[0]) {
        snprintf(path, sizeof path, "%s", hub);
    } else if (home && home[0]) {
        snprintf(path, sizeof path, "%s/hub", home);
    } else if (xdg && xdg[0]) {
        snprintf(path, sizeof path, "%s/huggingface/hub", xdg);
    } else {
        const char *user = getenv("HOME");
        snprintf(path, sizeof path, "%s/.cache/huggingface/hub", user ? user : "");
    }
    FileList list = {0};
    Err ignored = {0};
    int models = 0;
    if (file_list(&list, path, ERR_MODEL, &ignored)) {
        for (size_t i = 0; i < list.count; i++)
            models += strncmp(list.names[i], "models--", 8) == 0;
        snprintf(text, sizeof text, "%s: %d model%s", path, models, models == 1 ? "" : "s");
    } else {
        snprintf(text, sizeof text, "%s: none there; give base_model as a path", path);
    }
    file_list_free(&list);
    tell(r, "hf cache", text);
}

static bool run(const CommandLine *line, Err *err)
{
    Report r = {0};
    json_begin();
    if (command_flag(line, "json")) r.object = json_object();
    char text[256];
    tell(&r, "qlora", QLORA_VERSION ", compiled by GCC or compatible " __VERSION__);
    cpu_features(text, sizeof text);
    tell(&r, "cpu", text);
    bool ok = tell_backend(&r, err);
    if (ok) {
        snprintf(text, sizeof text, "%.1f GB available", (double)host_memory_available("") / 1e9);
        tell(&r, "memory", text);
        tell_libraries(&r);
        tell_disk(&r);
        tell_cache(&r);
    }
    if (r.object) {
        char *json = ok ? json_print(r.object, JSON_COMPACT, "the report", err) : NULL;
        if (json) puts(json);
        ok = json != NULL;
        mem_free(json);
        json_decref(r.object);
    }
    return ok;
}

static const CommandOption options[] = {COMMAND_JSON};

const Command command_doctor = {
    .name = "doctor",
    .files = "[--json]",
    .summary = "Show processor, memory, libraries, disk and model cache, one line each",
    .options = options,
    .option_count = 1,
    .run = run,
};
