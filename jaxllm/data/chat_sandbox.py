"""The Jinja environment that chat templates are written for: a sandbox, and a few functions.

Templates come with models from anywhere, so they run in Jinja's immutable sandbox. What they may
use is what transformers gives them (https://huggingface.co/docs/transformers/chat_templating).
What a short expression can make large is bounded, before it is made. That is no fence around a
template that grows a text step by step: the process's own limits are.
"""

import functools
import json
import re
from collections.abc import Callable, Iterable, Sized
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.defaults import DEFAULT_FILTERS
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, ContextReference
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import (
    ImmutableSandboxedEnvironment,
    SandboxedEscapeFormatter,
    SandboxedFormatter,
    SecurityError,
)
from markupsafe import Markup

MARKS = "_generation_marks"
"""The variable that holds what is written before and after each generation block, if anything."""

MAX_LENGTH = 50_000_000
"""Characters of a text, and elements of a list, that a template may make at once or in all."""
MAX_BITS = 10_000
"""Of a whole number: about 3000 digits, which Python still writes out."""

# Methods of texts, and filters, that make as much as a number says.
WIDENING_METHODS = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs"))
WIDENING_FILTERS = ("center", "indent", "batch", "slice", "tojson")
# What makes a width of a printf-style format: `%5d`, `%.5f`, `%*d`.
PRINTF = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(\d+|\*)?(?:\.(\d+|\*))?")


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


class _BoundedFormatter(SandboxedFormatter):
    """str.format, with bounded widths."""

    def format_field(self, value: Any, format_spec: str) -> str:
        _check_size(*map(int, re.findall(r"\d+", format_spec)))
        return super().format_field(value, format_spec)


class _BoundedEscapeFormatter(_BoundedFormatter, SandboxedEscapeFormatter):
    """The same, of a text that is escaped for HTML."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with bounds on what one expression can make."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            _check_printf(left, right)
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right if abs(left) > 1 else 0)
        return super().call_binop(context, operator, left, right)

    # The first parameters are nameless, as an argument of a template may have any name.
    def call(self, context: Context, callable_: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(callable_, "__self__", None), getattr(callable_, "__name__", None)
        if isinstance(owner, str) and name in WIDENING_METHODS:
            _check_size(*args, *kwargs.values())
        return super().call(context, callable_, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text: str = value.__self__
        formatter = (
            _BoundedEscapeFormatter(self, escape=text.escape)
            if isinstance(text, Markup)
            else _BoundedFormatter(self)
        )

        @functools.wraps(value)
        def bounded(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                (kwargs,), args = args, ()
            return type(text)(formatter.vformat(text, args, kwargs))

        return bounded


def _check_size(*sizes: Any) -> None:
    if any(isinstance(size, int) and size > MAX_LENGTH for size in sizes):
        raise SecurityError(f"it makes more than {MAX_LENGTH} characters or elements at once")


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise SecurityError(f"it makes a number of more than {MAX_BITS} bits")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    for many, times in ((left, right), (right, left)):
        if isinstance(many, Sized) and isinstance(times, int):
            _check_size(len(many) * times)


def _check_printf(text: str, values: Any) -> None:
    """The widths of `text % values`, of which `*` is one of the values."""
    widths = [width for found in PRINTF.findall(text) for width in found if width]
    _check_size(*(int(width) for width in widths if width != "*"))
    if "*" in widths:
        _check_size(*(values if isinstance(values, tuple) else [values]))


def _bounded(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose arguments are bounded."""

    @functools.wraps(filter_)
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_size(*args, *kwargs.values())
        return filter_(value, *args, **kwargs)

    return bounded


def _format(text: Any, *args: Any, **kwargs: Any) -> str:
    """The filter `format`, which is `%` with its arguments."""
    _check_printf(str(text), args)
    return DEFAULT_FILTERS["format"](text, *args, **kwargs)


def joined(pieces: Iterable[str]) -> str:
    """A text of its pieces, which may be without end. ValueError if it is too long."""
    kept: list[str] = []
    length = 0
    for piece in pieces:
        kept.append(piece)
        length += len(piece)
        if length > MAX_LENGTH:
            raise ValueError(f"it writes more than {MAX_LENGTH} characters")
    return "".join(kept)


def make_sandbox() -> ImmutableSandboxedEnvironment:
    """A new environment for chat templates, without `strftime_now`: each rendering has its own."""
    sandbox = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    sandbox.filters["tojson"] = to_json
    sandbox.filters["format"] = _format
    sandbox.filters |= {name: _bounded(sandbox.filters[name]) for name in WIDENING_FILTERS}
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
