"""Chat templates: conversations to the text that a model was trained to continue.

A template is a Jinja program that comes with a model; it runs in a sandbox. The text has the
model's special tokens spelled out, so it is encoded with them parsed.
"""

import functools
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

DEFAULT, TOOL_USE = "default", "tool_use"
TEMPLATE_FILE = "chat_template.jinja"
"""The file of a model's folder that is read before any other template."""

Message = Mapping[str, Any]
"""One turn: `role`, `content`, and whatever else the template reads."""

# What evaluating an expression of a template may raise, beside Jinja's own errors.
EVALUATION = (
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)

# The names under which models have put what the assistant thought; templates read any of them.
REASONING = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True)
class RenderedChat:
    """A conversation as text."""

    text: str
    assistant_spans: tuple[tuple[int, int], ...]
    """Start and stop, in characters, of what the template marks as said by the assistant."""


class ChatTemplate:
    """The template of a model, or several by name, of which one is `default`.

    special_tokens: what a template finds under `bos_token`, `eos_token` and the like. name: what
    an error calls it. Templates are compiled when first used, so that a broken one is no obstacle
    to what needs none.
    """

    def __init__(
        self,
        templates: str | Mapping[str, str],
        *,
        special_tokens: Mapping[str, str] | None = None,
        name: str = "the chat template",
        now: datetime | None = None,
    ) -> None:
        self.templates = {DEFAULT: templates} if isinstance(templates, str) else dict(templates)
        self.special_tokens = dict(special_tokens or {})
        self.name = name
        self._now = now
        self._compiled = functools.cache(self._compile)

    def at(self, moment: datetime) -> "ChatTemplate":
        """The same templates, for which it is always this moment; compiled once for both."""
        other = ChatTemplate(
            self.templates, special_tokens=self.special_tokens, name=self.name, now=moment
        )
        other._compiled = self._compiled
        return other

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation.

        add_generation_prompt: end with what precedes an answer. tools: JSON schemas. template: one
        by its name; by default `tool_use` where there are tools and such a template, or `default`.
        variables: further ones that the template reads, JSON values. Raises ValueError when the
        template does, and names the message it was at.
        """
        given = {"add_generation_prompt": add_generation_prompt, "tools": tools, **variables}
        return self._render(messages, template, given)

    def render_with_spans(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **variables: Any,
    ) -> RenderedChat:
        """As `render`, with the places of the template's `{% generation %}` blocks.

        Raises ValueError, too, when the template changes the text of such a block afterwards.
        """
        from jaxllm.data.chat_sandbox import MARKS, clock

        given = {"add_generation_prompt": add_generation_prompt, "tools": tools, **variables}
        same_moment = {"strftime_now": clock(self._now or datetime.now())}
        text = self._render(messages, template, given, same_moment)
        # Marks that no text contains: the blocks are found wherever the template puts them.
        marks = (f"<{secrets.token_hex(8)}|", f"|{secrets.token_hex(8)}>")
        marked = self._render(messages, template, given, same_moment | {MARKS: marks})
        rendered = _take_marks(marked, *marks)
        if rendered.text != text:
            raise ValueError(
                f"{self.name} changes the text of its generation blocks after they end, so "
                f"what the assistant says cannot be told; end the blocks later in the template"
            )
        return rendered

    def _render(
        self,
        messages: Sequence[Message],
        template: str | None,
        given: Mapping[str, Any],
        functions: Mapping[str, Any] | None = None,
    ) -> str:
        from jinja2 import TemplateError

        from jaxllm.data.chat_sandbox import clock, joined

        compiled = self._compiled(self._choose(template, given["tools"]))
        read: list[int] = []
        chat = _watched(messages, read)
        variables = {
            "documents": None,
            "strftime_now": clock(self._now or datetime.now()),
            **self.special_tokens,
            **{key: _plain(value, key) for key, value in given.items()},
            **(functions or {}),
        }
        try:
            return joined(compiled.generate(messages=chat, **variables))
        except (TemplateError, *EVALUATION) as error:
            place = _place(messages, read)
            # Python says nothing of what was too large for the memory.
            problem = str(error) or "it needs more memory than there is"
            raise ValueError(f"{self.name} fails{place}: {problem}") from error

    def _choose(self, template: str | None, tools: object) -> str:
        if template is None:
            template = TOOL_USE if tools is not None and TOOL_USE in self.templates else DEFAULT
        if template not in self.templates:
            raise ValueError(
                f"{self.name} has no template {template!r}; it has "
                f"{', '.join(self.templates) or 'none'}; name one of these with `template`"
            )
        return template

    def _compile(self, template: str) -> "Template":
        from jinja2 import TemplateSyntaxError

        from jaxllm.data.chat_sandbox import make_sandbox

        try:
            return make_sandbox().from_string(self.templates[template])
        except TemplateSyntaxError as error:
            raise ValueError(
                f"{self.name} is not a Jinja template: line {error.lineno}: {error.message}"
            ) from error
        except (SyntaxError, *EVALUATION) as error:
            # Python's own limits: of nested blocks and expressions, of digits of a number.
            raise ValueError(
                f"{self.name} is too deep or too large to be compiled: {error}"
            ) from error


def named_templates(value: Any, *, name: str) -> dict[str, str]:
    """Templates by name of what a tokenizer_config.json has: one text, or a list of named ones.

    name: what an error calls it. Raises ValueError for anything else.
    """
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, Mapping):
        value = [{"name": key, "template": template} for key, template in value.items()]
    try:
        named = {entry["name"]: entry["template"] for entry in value}
    except (TypeError, KeyError):
        named = {"": None}
    if not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise ValueError(
            f"{name} is {str(value)[:60]!r}; it must be a text, or a list of "
            f'{{"name": ..., "template": ...}}'
        )
    return named


class _Message(dict[str, Any]):
    """A message that notes when it is read, so that an error can say where the template was."""

    def __init__(self, fields: Mapping[str, Any], *, index: int, read: list[int]) -> None:
        super().__init__(fields)
        self._index, self._read = index, read

    def __getitem__(self, key: str) -> Any:
        self._read.append(self._index)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.append(self._index)
        return super().get(key, default)


# As which Jinja's errors name it, and transformers' with them.
_Message.__module__, _Message.__name__ = "builtins", "dict"


def _watched(messages: Sequence[Message], read: list[int]) -> list[_Message]:
    """Copies of the messages, without the keys whose value is null, as transformers has them."""
    if not messages:
        raise ValueError("there is no message to render; give one at least")
    chat = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(
                f"message {index} is {message!r}; a message is a mapping with role and content"
            )
        fields = {key: value for key, value in message.items() if value is not None}
        thought = next((fields[name] for name in REASONING if name in fields), None)
        if thought is not None:
            fields = {"thinking": thought, **fields, "reasoning_content": thought}
        chat.append(_Message(_plain(fields, f"message {index}"), index=index, read=read))
    return chat


def _plain(value: Any, name: str) -> Any:
    """A copy of a JSON value: templates get no objects, whose methods the sandbox cannot judge."""
    match value:
        case None | str() | bool() | int() | float():
            return value
        case Mapping():
            return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
        case Iterable() if isinstance(value, list | tuple):
            return [_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
        case _:
            raise ValueError(
                f"{name} is a {type(value).__name__}; templates take JSON values: texts, "
                f"numbers, booleans, null, lists and mappings of them"
            )


def _place(messages: Sequence[Message], read: list[int]) -> str:
    """' at message 3 (assistant)', of the message that was read last; '' when none was."""
    if not read:
        return ""
    return f" at message {read[-1]} ({messages[read[-1]].get('role', 'no role')})"


def _take_marks(marked: str, start: str, stop: str) -> RenderedChat:
    """The text without its marks, and where they stood."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    open_: list[int] = []
    length = 0
    for piece in re.split(f"({re.escape(start)}|{re.escape(stop)})", marked):
        if piece == start:
            open_.append(length)
        elif piece == stop:
            # A stop without its start is a block that was cut: then the texts differ as well.
            spans += [(open_.pop(), length)] if open_ else []
        else:
            pieces.append(piece)
            length += len(piece)
    return RenderedChat("".join(pieces), tuple(spans))
