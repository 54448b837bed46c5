#include "data/chat_format.h"

#include "base/check.h"

#include <string.h>

/*
 * The forms are written in the canonical language of chat_canonical.c: B a statement, O an output, the rest literal
 * text. CAPTURE takes literal text (the default system message, a date); BRANCH takes the inside of a branch that a
 * conversation without tools never enters.
 */
#define B(statement) "\x02" statement "\x03"
#define O(expression) "\x04" expression "\x05"
#define CAPTURE "\x06"
#define BRANCH "\x07"

#define START "<|im_start|>"
#define END "<|im_end|>\n"
#define FOR B("for message in messages")
#define TURN START O("message.role") "\n" O("message.content") END
#define DEFAULT_FIRST B("if loop.first and messages[0].role!='system'") START "system\n" CAPTURE END B("endif")
#define PROMPT B("if add_generation_prompt") START "assistant\n" B("endif")
#define PROMPT_UNSET B("if not add_generation_prompt is defined") B("set add_generation_prompt=false") B("endif")

/* Qwen2.5 and later: a system turn in front of the loop, tool results inside a user turn. */
#define QWEN_SYSTEM B("if messages[0].role=='system'") START "system\n" O("messages[0].content") END
#define QWEN_PLAIN_TURN                                                                                                \
    B("if(message.role=='user')or(message.role=='system' and not loop.first)or"                                        \
      "(message.role=='assistant' and not message.tool_calls)")                                                        \
    TURN
#define QWEN_TOOL                                                                                                      \
    B("if(loop.index0==0)or(messages[loop.index0-1].role!='tool')")                                                    \
    START "user" B("endif") "\n<tool_response>\n" O("message.content") "\n</tool_response>" B(                         \
        "if loop.last or(messages[loop.index0+1].role!='tool')") END B("endif")
#define QWEN_TOOL_FIRST                                                                                                \
    B("if loop.first or(messages[loop.index0-1].role!='tool')")                                                        \
    START "user" B("endif") "\n<tool_response>\n" O("content") "\n</tool_response>" B(                                 \
        "if loop.last or(messages[loop.index0+1].role!='tool')") END B("endif")
#define QWEN_LOOP FOR QWEN_PLAIN_TURN B("elif message.role=='assistant'") BRANCH
/* Qwen3-2507 Instruct: the content first, tool calls after it. */
#define QWEN3_TURNS                                                                                                    \
    B("if(message.role=='user')or(message.role=='system' and not loop.first)")                                         \
    START O("message.role") "\n" O("content") END B("elif message.role=='assistant'")                                  \
        START O("message.role") "\n" O("content") B("if message.tool_calls") BRANCH B("endif") END

#define HEADER_L3 "<|start_header_id|>" O("message.role") "<|end_header_id|>\n\n"
#define SET_L3                                                                                                         \
    B("set content='<|start_header_id|>'+message.role+'<|end_header_id|>\n\n'+message.content|trim+'<|eot_id|>'")
#define PROMPT_L3 B("if add_generation_prompt") "<|start_header_id|>assistant<|end_header_id|>\n\n" B("endif")
#define SET_TOOLS                                                                                                      \
    O("bos_token")                                                                                                     \
    B("if custom_tools is defined")                                                                                    \
    B("set tools=custom_tools")                                                                                        \
    B("endif") B("if not tools_in_user_message is defined") B("set tools_in_user_message=true") B("endif")
#define NO_TOOLS B("if not tools is defined") B("set tools=none") B("endif")
#define SPLIT_SYSTEM                                                                                                   \
    B("if messages[0].role=='system'")                                                                                 \
    B("set system_message=messages[0].content|trim")                                                                   \
    B("set messages=messages[1:]") B("else") B("set system_message=''") B("endif")
#define SYSTEM_L31 "<|start_header_id|>system<|end_header_id|>\n\n"
#define DATES_L31 "Cutting Knowledge Date: " CAPTURE "\nToday Date: " O("date_string") "\n\n"
#define TURNS_L31                                                                                                      \
    FOR B("if not(message.role=='ipython' or message.role=='tool' or 'tool_calls' in message)")                        \
        HEADER_L3 O("message.content|trim") "<|eot_id|>" B("elif 'tool_calls' in message")                             \
            BRANCH B("elif message.role=='tool' or message.role=='ipython'") BRANCH B("endif") B("endfor") PROMPT_L3

/* One capture: the default system message. Two when `dated`: the date, then the knowledge cutoff. */
typedef struct Form {
    const char *pattern;
    ChatFamily family;
    bool bos;
    ChatTool tool;
    bool dated;
} Form;

static const Form forms[] = {
    {FOR TURN B("endfor") PROMPT,                                                                                                 CHAT_CHATML, false, CHAT_TOOL_ROLE,    false},
    {FOR TURN B("endfor"),                                                                                                        CHAT_CHATML, false, CHAT_TOOL_ROLE,    false},
    {PROMPT_UNSET FOR TURN B("endfor") PROMPT,                                                                                    CHAT_CHATML, false, CHAT_TOOL_ROLE,    false},
    {O("bos_token") FOR TURN B("endfor") PROMPT,                                                                                  CHAT_CHATML, true,  CHAT_TOOL_ROLE,    false},
    {PROMPT_UNSET O("bos_token") FOR TURN B("endfor") PROMPT,                                                                     CHAT_CHATML, true,  CHAT_TOOL_ROLE,    false},
    {FOR DEFAULT_FIRST TURN B("endfor") PROMPT,                                                                                   CHAT_CHATML, false, CHAT_TOOL_ROLE,    false},
    {O("bos_token") FOR DEFAULT_FIRST TURN B("endfor") PROMPT,                                                                    CHAT_CHATML, true,  CHAT_TOOL_ROLE,    false},
    {PROMPT_UNSET FOR DEFAULT_FIRST TURN B("endfor") PROMPT,                                                                      CHAT_CHATML, false, CHAT_TOOL_ROLE,    false},
    {FOR B("if message.role=='user'") START "user\n" O("message.content") END B("elif message.role=='assistant'") START
     "assistant\n" O("message.content") END B("else") START "system\n" O("message.content") END B("endif") B("endfor")
         PROMPT,                                                                                                             CHAT_CHATML, false, CHAT_TOOL_REFUSED, false},
 /* Qwen2.5 */
    {B("if tools") BRANCH B("else") QWEN_SYSTEM B("else") START "system\n" CAPTURE END B("endif") B("endif")
         QWEN_LOOP B("elif message.role=='tool'") QWEN_TOOL B("endif") B("endfor") PROMPT,
     CHAT_CHATML,                                                                                                                              false, CHAT_TOOL_WRAP,    false},
 /* the same without a default (Qwen2.5 derivatives) */
    {B("if tools") BRANCH B("else") QWEN_SYSTEM B("endif") B("endif") QWEN_LOOP B("elif message.role=='tool'")
         QWEN_TOOL B("endif") B("endfor") PROMPT,
     CHAT_CHATML,                                                                                                                              false, CHAT_TOOL_WRAP,    false},
 /* Qwen3-2507 Instruct */
    {B("if tools") BRANCH B("else") QWEN_SYSTEM B("endif") B("endif") FOR B("if message.content is string")
         B("set content=message.content") B("else") BRANCH B("endif") QWEN3_TURNS B("elif message.role=='tool'")
             QWEN_TOOL_FIRST B("endif") B("endfor") PROMPT,
     CHAT_CHATML,                                                                                                                              false, CHAT_TOOL_WRAP,    false},
 /* Llama-3 */
    {B("set loop_messages=messages") B("for message in loop_messages") SET_L3 B("if loop.index0==0")
         B("set content=bos_token+content") B("endif") O("content") B("endfor") PROMPT_L3,
     CHAT_LLAMA3,                                                                                                                              true,  CHAT_TOOL_ROLE,    false},
    {O("bos_token") FOR HEADER_L3 O("message.content|trim") "<|eot_id|>" B("endfor") PROMPT_L3,                                   CHAT_LLAMA3, true,
     CHAT_TOOL_ROLE,                                                                                                                                                     false},
    {O("bos_token") FOR B("if message.role=='user'") "<|start_header_id|>user<|end_header_id|>\n\n" O(
         "message.content|trim") "<|eot_id|>" B("elif message.role=='assistant'") "<|start_header_id|>"
                                                                                  "assistant<|end_header_id|>"
                                                                                  "\n\n" O(
                                                                                      "message.content|"
                                                                                      "trim") "<|eot_id|"
                                                                                              ">" B("else") HEADER_L3 O(
                                                                                                  "messa"
                                                                                                  "ge."
                                                                                                  "conte"
                                                                                                  "nt|"
                                                                                                  "trim") "<|eot_id|"
                                                                                                          ">" B("end"
                                                                                                                "if")
                                                                                                              B("e"
                                                                                                                "n"
                                                                                                                "d"
                                                                                                                "f"
                                                                                                                "o"
                                                                                                                "r")
                                                                                                                  PROMPT_L3,
     CHAT_LLAMA3,                                                                                                                              true,  CHAT_TOOL_ROLE,    false},
 /* Llama-3.1 and 3.3 */
    {SET_TOOLS B("if not date_string is defined") B("set date_string='" CAPTURE "'") B("endif")
         NO_TOOLS SPLIT_SYSTEM SYSTEM_L31 B("if builtin_tools is defined or tools is not none") BRANCH B("endif")
             B("if builtin_tools is defined") BRANCH B("endif")
                 DATES_L31 B("if tools is not none and not tools_in_user_message") BRANCH B("endif")
                     O("system_message") "<|eot_id|>" B("if tools_in_user_message and not tools is none")
                         BRANCH B("endif") TURNS_L31,
     CHAT_LLAMA3,                                                                                                                              true,  CHAT_TOOL_REFUSED, true },
 /* Llama-3.2: the day of rendering, for which we put the date that the template falls back to */
    {SET_TOOLS B("if not date_string is defined") B("if strftime_now is defined") BRANCH B("else")
         B("set date_string='" CAPTURE "'") B("endif") B("endif") NO_TOOLS SPLIT_SYSTEM SYSTEM_L31 B(
             "if tools is not none") BRANCH B("endif") DATES_L31 B("if tools is not none and not tools_in_user_message")
             BRANCH B("endif") O("system_message") "<|eot_id|>" B("if tools_in_user_message and not tools is none")
                 BRANCH B("endif") TURNS_L31,
     CHAT_LLAMA3,                                                                                                                              true,  CHAT_TOOL_REFUSED, true },
};

enum { CAPTURES = 2 };

typedef struct Match {
    struct {
        const char *bytes;
        size_t length;
    } captures[CAPTURES];
    int count;
} Match;

static bool starts(const char *text, const char *with)
{
    return !strncmp(text, with, strlen(with));
}

static bool is_control(char c)
{
    return c >= '\x02' && c <= '\x07';
}

/* Nesting that a statement opens (+1) or closes (-1); 0 for one that stands by itself. */
static int nesting(const char *statement)
{
    const size_t n = strcspn(statement, "\x03");
    static const char *const openers[] = {"if", "for", "macro", "call", "filter", "raw"};
    if (starts(statement, "end")) return -1;
    for (size_t i = 0; i < ARRAY_COUNT(openers); i++) {
        const size_t k = strlen(openers[i]);
        if (starts(statement, openers[i]) && k <= n && (statement[k] == ' ' || statement[k] == '(')) return 1;
    }
    if (starts(statement, "set ") && !memchr(statement, '=', n)) return 1;
    return 0;
}

/* Bytes from `text` to the end of the branch it stands in: its elif, else or end. */
static size_t branch_length(const char *text)
{
    int depth = 0;
    size_t i = 0;
    while (text[i]) {
        if (text[i] == '\x02') {
            const char *statement = text + i + 1;
            const bool sibling = starts(statement, "elif") || starts(statement, "else");
            if (depth == 0 && (sibling || starts(statement, "end"))) return i;
            depth += nesting(statement);
        }
        i++;
    }
    return i;
}

/* Recursion is bounded by the two captures of a form. */
static bool match(const char *pattern, const char *text, Match *m)
{
    while (*pattern) {
        if (*pattern == BRANCH[0]) {
            text += branch_length(text);
            pattern++;
        } else if (*pattern == CAPTURE[0]) {
            if (m->count == CAPTURES) return false;
            const int index = m->count++;
            for (size_t n = 0;; n++) {
                m->captures[index].bytes = text;
                m->captures[index].length = n;
                m->count = index + 1;
                if (match(pattern + 1, text + n, m)) return true;
                if (!text[n] || is_control(text[n])) return false;
            }
        } else if (*pattern++ != *text++) {
            return false;
        }
    }
    return *text == '\0';
}

void chat_format_free(ChatFormat *f)
{
    text_free(&f->default_system);
    text_free(&f->preamble);
    *f = (ChatFormat){0};
}

static bool format_fill(ChatFormat *f, const Form *form, const Match *m, Err *err)
{
    *f = (ChatFormat){.family = form->family, .bos = form->bos, .tool = form->tool};
    if (form->dated) {
        return text_format(&f->preamble, err, "Cutting Knowledge Date: %.*s\nToday Date: %.*s\n\n",
                           (int)m->captures[1].length, m->captures[1].bytes, (int)m->captures[0].length,
                           m->captures[0].bytes);
    }
    f->default_system_given = m->count > 0;
    return m->count == 0 || text_add(&f->default_system, m->captures[0].bytes, m->captures[0].length, err);
}

bool chat_format_detect(ChatFormat *out, bool *found, const char *jinja, Err *err)
{
    Text canonical = {0};
    ChatFormat format = {0};
    *found = false;
    for (const char *c = jinja; *c; c++) /* they would pass for our own marks */
        if (is_control(*c)) return true;
    TRY(chat_format_canonical(&canonical, jinja, strlen(jinja), err));
    for (size_t i = 0; i < ARRAY_COUNT(forms) && canonical.bytes && !*found; i++) {
        Match m = {0};
        if (!match(forms[i].pattern, canonical.bytes, &m)) continue;
        TRY(format_fill(&format, &forms[i], &m, err));
        *found = true;
    }
    text_free(&canonical);
    *out = format;
    return true;
fail:
    text_free(&canonical);
    chat_format_free(&format);
    *found = false;
    return false;
}
