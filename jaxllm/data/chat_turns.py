"""What of a rendered conversation the assistant says, by the template's marks or by its prefixes.

Where the template has `{% generation %}` blocks, they are it. Else each answer is what comes to the
text when its message does: from the end of the generation prompt to where the next message begins,
with the token that ends a turn, but without the blanks behind that.
"""

import re
from collections.abc import Iterator, Sequence

from jaxllm.data.chat_template import ChatTemplate, Message, RenderedChat

BLOCK = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_ADVICE = (
    "put {% generation %}...{% endgeneration %} around what the assistant says in the template, "
    "or give another template"
)


def render_turns(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    tools: Sequence[Message] | None = None,
    specials: Sequence[str] = (),
) -> RenderedChat:
    """A conversation as text, and where in it each turn of the assistant is.

    specials: the spellings of special tokens. ValueError for a template that loses an answer, or
    whose text does not show where one begins and ends.
    """
    if any(BLOCK.search(source) for source in template.templates.values()):
        rendered = template.render_with_spans(messages, tools=tools)
        spans = [span for span in rendered.assistant_spans if rendered.text[slice(*span)].strip()]
    else:
        text = template.render(messages, tools=tools)
        spans = list(_added(template, messages, text, tools=tools))
        spans = [(start, _end(text, start, stop, specials)) for start, stop in spans]
        rendered = RenderedChat(text, tuple(spans))
    _check_answers(template.name, messages, [rendered.text[slice(*span)] for span in spans])
    return RenderedChat(rendered.text, tuple(spans))


def _added(
    template: ChatTemplate, messages: Sequence[Message], whole: str, *, tools: object
) -> Iterator[tuple[int, int]]:
    """Start and stop of what each message of the assistant adds to the text."""
    for number in _answers(messages):
        if number == 0:
            raise ValueError(
                f"{template.name} does not show where an answer begins that is the first message; "
                f"begin with another message, or {_ADVICE}"
            )
        before = template.render(messages[:number], True, tools=tools)  # type: ignore[arg-type]
        until = template.render(messages[: number + 1], tools=tools)  # type: ignore[arg-type]
        if not until.startswith(before):
            raise ValueError(
                f"{template.name} writes what comes before message {number} (assistant) otherwise "
                f"when it asks for that answer ({_apart(before, until)}), so a model would be "
                f"trained on another text than it is asked with; {_ADVICE}"
            )
        if not whole.startswith(until):
            raise ValueError(
                f"{template.name} writes message {number} (assistant) otherwise when more messages "
                f"follow ({_apart(until, whole)}), so where it ends cannot be told; {_ADVICE}"
            )
        yield len(before), len(until)


def _answers(messages: Sequence[Message]) -> list[int]:
    return [number for number, message in enumerate(messages) if message["role"] == "assistant"]


def _apart(first: str, second: str) -> str:
    """Where two texts begin to differ, for an error."""
    pairs = zip(first, second, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    start = max(0, at - 8)
    return f"{first[start : at + 16]!r} and {second[start : at + 16]!r}"


def _end(text: str, start: int, stop: int, specials: Sequence[str]) -> int:
    """Where a turn ends: no model has to write the blanks behind the token that stops it."""
    said = text[start:stop].rstrip()
    return start + len(said) if said.endswith(tuple(specials)) else stop


def _check_answers(name: str, messages: Sequence[Message], said: Sequence[str]) -> None:
    """ValueError where an answer is not among what was found: a template drops it, or its mark."""
    answers = _answers(messages)
    if len(said) < len(answers):
        raise ValueError(
            f"{name} marks {len(said)} of the assistant's {len(answers)} turns as generated, and "
            f"the others would not be learned; {_ADVICE}"
        )
    # Templates trim answers, and leave out what was thought before them; the end is always there.
    everything = "\n".join(said)
    for number in answers:
        words = str(messages[number].get("content") or "").split()
        if words and words[-1] not in everything:
            raise ValueError(
                f"{name} leaves out or changes what message {number} (assistant) says: "
                f"{words[-1][:40]!r} is not in its part of the text; {_ADVICE}"
            )
