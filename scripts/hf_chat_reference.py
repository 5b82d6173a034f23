"""Chat templates of well-known shapes, and what transformers makes of conversations."""

import json
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
    {{- '# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if tools and loop.first and message.role == 'system' %}{% continue %}{% endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
        {%- if message.reasoning_content %}<think>{{ message.thinking }}</think>{% endif %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>' + call.function | tojson + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- message.content }}<|im_end|>
{{ '' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

INST = """\
{% if messages[0]['role'] == 'system' %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] | trim + '\\n<</SYS>>\\n\\n' %}
    {% set messages = messages[1:] %}
{% else %}
    {% set system = '' %}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if loop.index0 == 0 %}
        {% set content = system + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}
        {% generation %}{{ ' ' + content | trim + ' ' + eos_token }}{% endgeneration %}
    {% endif %}
{% endfor %}
"""

HEADERS = """\
{{- bos_token }}
{%- set ns = namespace(turns=0) %}
{%- macro header(role) %}<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro %}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant', 'tool'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {%- set ns.turns = ns.turns + 1 %}
    {%- if ns.turns > 6 %}{% break %}{% endif %}
    {{- header(message['role']) }}
    {%- if message.content is string %}
        {{- message.content | trim }}
    {%- elif message.content is mapping or message.content is iterable %}
        {{- message.content | tojson(indent=1) }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ header('assistant') }}{% endif %}
{%- if tools is not none %}{{ tools | map(attribute='name') | join(',') }}{% endif %}
"""

BARS = """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""

TURNS = """\
{{ bos_token }}{% if messages[0].role == 'system' -%}
    {% set first, rest = messages[0].content + '\\n\\n', messages[1:] -%}
{% else %}{% set first, rest = '', messages %}{% endif -%}
{% for message in rest -%}
    {% set role = 'model' if message.role == 'assistant' else message.role -%}
    <start_of_turn>{{ role ~ '\\n' ~ (first if loop.first else '') ~ message.content | trim -}}
    <end_of_turn>{{ '\\n' -}}
{% endfor -%}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif -%}
"""

TEMPLATES = {"chatml": CHATML, "inst": INST, "headers": HEADERS, "bars": BARS, "turns": TURNS}
SPECIALS = {"bos_token": "<s>", "eos_token": "</s>"}


def said(*turns: str) -> list[dict[str, Any]]:
    """Messages of `role: content` lines."""
    return [dict(zip(("role", "content"), turn.split(": ", 1), strict=True)) for turn in turns]


CALL = {"function": {"name": "add", "arguments": {"a": 1, "text": "\u00e9 <b>"}}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
THINKING = {"role": "assistant", "content": "x", "reasoning": "t"}
CHATS: dict[str, dict[str, Any]] = {
    "one": {"messages": said("user: Hi")},
    "prompted": {"messages": said("user: Hi"), "add_generation_prompt": True},
    "system": {"messages": said("system:  Be brief. ", "user: Hi", "assistant: Hello", "user: ?")},
    "no_tools": {"messages": said("user: Hi", "assistant: Hello"), "tools": None},
    "empty_turns": {"messages": said("user: ", "assistant: ", "user: \n")},
    "specials_inside": {
        "messages": said("user: <|im_end|><s>[/INST]</s>", "assistant: <|eot_id|>")
    },
    "awkward": {
        "messages": said(
            "user: \U0001f468\u200d\U0001f469 {{ x }} {% y %} \u0645\n\n", "assistant: ok"
        )
    },
    "tools": {
        "messages": [*said("system: S", "user: Add"), CALLING],
        "tools": [{"name": "add", "parameters": {"z": "<\u00e9>", "a": [1, 2.5, None, True]}}],
    },
    "twice_user": {"messages": said("user: Hi", "user: again")},
    "unknown_role": {"messages": said("user: Hi", "critic: bad")},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "\u4e2d"}]}]},
    "many": {"messages": said(*["user: a", "assistant: b"] * 5), "add_generation_prompt": True},
    "reasoned": {"messages": [*said("user: Hi"), THINKING]},
}


def record_chats(path: Path) -> None:
    """Writes the templates, the conversations and their renderings, errors included."""
    results = {
        name: {chat: _render(source, given) for chat, given in CHATS.items()}
        for name, source in TEMPLATES.items()
    }
    content = {"templates": TEMPLATES, "specials": SPECIALS, "chats": CHATS, "results": results}
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


TOKENIZERS = ("json_bytelevel", "llama_pieces", "gemma_pieces")
TRAINED_ON = ("system", "no_tools", "awkward", "tools", "many", "reasoned")


def record_chat_tokens(path: Path, tokenizers: Path) -> None:
    """Writes the ids of conversations, and which of them a template marks as the assistant's.

    tokenizers: the folder of their folders.
    """
    results: dict[str, Any] = {}
    for kind in TOKENIZERS:
        tokenizer = AutoTokenizer.from_pretrained(tokenizers / kind)
        for name in ("chatml", "inst"):
            for chat in TRAINED_ON:
                encoded = tokenizer.apply_chat_template(
                    CHATS[chat]["messages"],
                    tools=CHATS[chat].get("tools"),
                    chat_template=TEMPLATES[name],
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
                found = {"ids": encoded["input_ids"], "scored": encoded["assistant_masks"]}
                results.setdefault(kind, {}).setdefault(name, {})[chat] = found
    path.write_text(json.dumps(results), encoding="utf-8")


def _render(source: str, given: dict[str, Any]) -> dict[str, Any]:
    # As `apply_chat_template` does: keys without a value are left out.
    chat = [{k: v for k, v in turn.items() if v is not None} for turn in given["messages"]]
    others = {key: value for key, value in given.items() if key != "messages"}
    try:
        texts, spans = render_jinja_template(
            [chat],
            chat_template=source,
            return_assistant_tokens_mask="{%- generation" in source or "{% generation" in source,
            **SPECIALS,
            **others,
        )
    except (TemplateError, TypeError) as error:
        return {"error": str(error)}
    return {"text": texts[0], "spans": spans[0] if spans else []}
