"""Golden data for data/chat*.c: what Hugging Face renders, tokenizes and masks for the templates we accept.

Writes tests/golden/data/chat/tokenizer.json (a byte-level BPE of a few hundred tokens, trained on the text below) and
cases.json. The templates have the form in which the models ship them; branches that only tools reach are cut
down. Masks come from the same template with {% generation %} around an assistant's content and end marker.

Made with transformers 5.23.0, tokenizers 0.23.3, seed 7. Run: python tests/golden/chat.py
"""

import json
import pathlib
import random

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

OUT = pathlib.Path(__file__).parent / "data" / "chat"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
           "<|end_header_id|>", "<|eot_id|>"]
TEXT = ["system user assistant tool the quick brown fox jumps over the lazy dog", "Hello, how are you today? I am fine.",
        "What is the capital of France? The capital of France is Paris.", "You are a helpful assistant."] * 20


def make_tokenizer():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=420, special_tokens=[AddedToken(s, special=True) for s in SPECIAL], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


TURN = "'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'"
MARKED = ("{{'<|im_start|>' + message['role'] + '\\n'}}{% if message['role'] == 'assistant' %}{% generation %}"
          "{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% else %}{{message['content'] + '<|im_end|>'}}"
          "{% endif %}{{'\\n'}}")
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
DEFAULT = ("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" "DEF"
           "<|im_end|>\\n' }}{% endif %}")


def chatml(default=None, before="", marked=False):
    first = DEFAULT.replace("DEF", default) if default else ""
    turn = MARKED if marked else "{{" + TURN + "}}"
    return before + "{% for message in messages %}" + first + turn + "{% endfor %}" + PROMPT


QWEN = """{%- if tools %}
    {%- for tool in tools %}
        {%- if tool.name %}
            {{- tool.name }}
        {%- elif loop.first %}
            {{- raise_exception('tools') }}
        {%- else %}
            {{- tool | tojson }}
        {%- endif %}
    {%- endfor %}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        TURN
    {%- elif message.role == "assistant" %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- else %}
                {{- raise_exception('tool calls') }}
            {%- endif %}
            {{- tool_call.name }}
        {%- endfor %}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def qwen(marked=False):
    turn = "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    return QWEN.replace("TURN", MARKED.replace("{{", "{{-", 1) if marked else turn)


HEADER = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
L3_MARKED = ("{{ " + HEADER + " }}{% if message['role'] == 'assistant' %}{% generation %}"
             "{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}{% else %}"
             "{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}")
L3_PROMPT = "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"


def llama3(marked=False):
    if marked:
        return "{{ bos_token }}{% for message in messages %}" + L3_MARKED + "{% endfor %}" + L3_PROMPT
    return ("{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = " + HEADER +
            "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content "
            "%}{% endif %}{{ content }}{% endfor %}" + L3_PROMPT)


LLAMA31 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message stands in front. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- raise_exception('tools') }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- raise_exception('tools') }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- raise_exception('tools') }}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}

{#- Tools of the caller. #}
{%- if tools_in_user_message and not tools is none %}
    {{- raise_exception('tools') }}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        TURN
    {%- elif 'tool_calls' in message %}
        {{- raise_exception('tool calls') }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- raise_exception('tools') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def llama31(marked=False):
    turn = "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}"
    return LLAMA31.replace("TURN", L3_MARKED.replace("{{", "{{-", 1) if marked else turn)


SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
# name -> (template, the same with marks, what chat_template_name says, whether it takes the role tool)
TEMPLATES = {
    "chatml": (chatml(), chatml(marked=True), "chatml", True),
    "chatml after bos": (chatml(before="{{ bos_token }}"), chatml(before="{{ bos_token }}", marked=True), "chatml", True),
    "smollm2": (chatml(SMOL), chatml(SMOL, marked=True), "chatml", True),
    "qwen2": (chatml("You are a helpful assistant."), chatml("You are a helpful assistant.", marked=True), "chatml", True),
    "qwen2.5": (qwen(), qwen(marked=True), "chatml", True),
    "llama3": (llama3(), llama3(marked=True), "llama3", True),
    "llama3.1": (llama31(), llama31(marked=True), "llama3", False),
}


def conversations(rng):
    s, u, a = "system", "user", "assistant"
    lists = [
        [(u, "Hello, how are you today?"), (a, "I am fine.")],
        [(s, "You are a helpful assistant."), (u, "What is the capital of France?"), (a, "The capital of France is Paris.")],
        [(u, "one"), (a, "two"), (u, "three"), (a, "four"), (u, "five"), (a, "six")],
        [(s, " \n trimmed? \t"), (u, "  leading and trailing  \n"), (a, "\n\nnewlines around\n\n")],
        [(u, "\u00a0no-break\u3000wide\u2003"), (a, "\u001cseparators\u001f \u0085next line\u0085")],
        [(u, "\u200bzero width is no space\u200b"), (a, "\ufeffnor is this\ufeff")],
        [(u, "Grüße, 世界! 👩‍👩‍👧 e\u0301"), (a, "नमस्ते 🇫🇷 \U0001F600")],
        [(u, ""), (a, "")],
        [(u, "   "), (a, " ")],
        [(u, "a"), (u, "b"), (a, "c"), (a, "d")],
        [(s, "S"), (u, "question without an answer")],
        [(u, "<|im_end|>\n<|im_start|>system\nnot a turn"), (a, "text of <|eot_id|> markers <|im_end|>")],
        [(u, "x"), (a, "y"), (s, "a system message in the middle"), (u, "z"), (a, "w")],
        [(u, "{{ bos_token }} {% if x %}"), (a, "'quotes' \"double\" \\ backslash\r\nCRLF\ttab\0nul")],
    ]
    for _ in range(6):
        letters = "ab \n\tÄß世🙂'\"<|>0"
        lists.append([(rng.choice([u, a]), "".join(rng.choice(letters) for _ in range(rng.randrange(24))))
                      for _ in range(rng.randrange(1, 7))])
    return [[{"role": r, "content": c} for r, c in one] for one in lists]


TOOLS = [
    [{"role": "user", "content": "weather?"}, {"role": "assistant", "content": "asking"}, {"role": "tool", "content": "sun"},
     {"role": "tool", "content": "and rain"}, {"role": "assistant", "content": "mixed"}],
    [{"role": "user", "content": "weather?"}, {"role": "tool", "content": "sun"}],
]


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    base = make_tokenizer()
    base.save(str(OUT / "tokenizer.json"), pretty=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, bos_token="<|begin_of_text|>", eos_token="<|endoftext|>")
    result = []
    for name, (template, marked, family, takes_tools) in TEMPLATES.items():
        cases = []
        for messages in conversations(random.Random(7)) + (TOOLS if takes_tools else []):
            text = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
            prompt = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False,
                                                   add_generation_prompt=True)
            assert text == tokenizer.apply_chat_template(messages, chat_template=marked, tokenize=False), name
            out = tokenizer.apply_chat_template(messages, chat_template=marked, tokenize=True, return_dict=True,
                                                return_assistant_tokens_mask=True)
            labels = [i if m else -100 for i, m in zip(out["input_ids"], out["assistant_masks"])]
            cases.append({"messages": messages, "text": text, "prompt": prompt, "input_ids": out["input_ids"],
                          "labels": labels})
        result.append({"name": name, "family": family, "template": template, "cases": cases})
    with open(OUT / "cases.json", "w", encoding="utf-8") as f:
        json.dump(result, f, ensure_ascii=True, separators=(",", ":"))


main()
