"""The Jinja environment that chat templates are written for: a sandbox, and a few functions.

Templates come with models from anywhere, so they run in Jinja's immutable sandbox. What they may
use is what transformers gives them (https://huggingface.co/docs/transformers/chat_templating).
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, ContextReference
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

MARKS = "_generation_marks"
"""The variable that holds what is written before and after each generation block, if anything."""


class GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}`: what the assistant says; renders as its content."""

    tags = {"generation"}  # noqa: RUF012  Jinja reads it from the class

    def parse(self, parser: Parser) -> CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = CallBlock(self.call_method("_marked", [ContextReference()]), [], [], body)
        block.set_lineno(line)
        return block

    def _marked(self, context: Context, caller: Macro) -> str:
        start, stop = context.get(MARKS, ("", ""))
        return f"{start}{caller()}{stop}"


def make_sandbox() -> ImmutableSandboxedEnvironment:
    """A new environment for chat templates, without `strftime_now`: each rendering has its own."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    sandbox.filters["tojson"] = to_json
    sandbox.globals["raise_exception"] = raise_exception
    return sandbox


def raise_exception(message: str) -> NoReturn:
    """How a template refuses a conversation."""
    raise TemplateError(message)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter would escape `<`, `>`, `&` and quotes for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def clock(now: datetime) -> Callable[[str], str]:
    """`strftime_now` of one rendering: the same moment however often it is asked."""
    return now.strftime
