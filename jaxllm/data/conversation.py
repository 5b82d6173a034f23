"""One record of a chat file as a conversation: messages, each with a role and what is said.

By the fields of a record: `messages` (OpenAI's form: role, content), `conversations` (ShareGPT's:
from, value), `prompt` and `completion`, or `instruction`, `input` and `output`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxllm.data.dataset_error import DatasetError
from jaxllm.data.example_record import ExampleRecord

KEY = "source"
ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")
# What else datasets call them.
ALIASES = {
    "human": "user",
    "prompter": "user",
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "model": ASSISTANT,
    "observation": "tool",
}


@dataclass(frozen=True)
class Conversation:
    """What was said, in order, as chat templates read it."""

    messages: tuple[dict[str, Any], ...]
    """Each with `role` and `content`, and whatever else its record has, such as `tool_calls`."""
    tools: tuple[dict[str, Any], ...] | None
    """JSON schemas of the tools that were there; None without any."""
    where: str
    """The place of its record, FILE:LINE."""


def conversation_of(record: ExampleRecord) -> Conversation:
    """The conversation of a record. DatasetError, naming it, for one that is none.

    That is one without an answer, with an empty one, or with a role that no template knows. A
    `system` field beside the turns is said before them.
    """
    for fields, read in _FORMS.items():
        if all(record.fields.get(field) is not None for field in fields):
            messages = read(record)
            break
    else:
        there = ", ".join(map(repr, record.fields)) or "none"
        forms = " or ".join(" with ".join(fields) for fields in _FORMS)
        raise _error(record, f"no conversation: it has the fields {there}; give {forms}")
    system = record.fields.get("system")
    if system is not None and (not messages or messages[0]["role"] != "system"):
        messages = [{"role": "system", "content": record.text("system", key=KEY)}, *messages]
    if not any(message["role"] == ASSISTANT for message in messages):
        raise _error(record, "no turn of the assistant, so there is nothing to learn; leave it out")
    return Conversation(tuple(messages), _tools(record), record.where)


def _turns(field: str) -> Callable[[ExampleRecord], list[dict[str, Any]]]:
    """How a list of turns is read, each with role and content, or with from and value."""

    def read(record: ExampleRecord) -> list[dict[str, Any]]:
        turns = record.fields[field]
        if not isinstance(turns, list):
            raise _error(record, f"{field!r} is a {type(turns).__name__}, not a list of turns")
        return [_message(record, turn, f"{field}[{number}]") for number, turn in enumerate(turns)]

    return read


def _message(record: ExampleRecord, turn: Any, name: str) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise _error(record, f"{name} is a {type(turn).__name__}; give an object with a role")
    role_key, content_key = ("from", "value") if "from" in turn else ("role", "content")
    theirs = turn.get(role_key)
    role = ALIASES.get(theirs, theirs) if isinstance(theirs, str) else None
    if role not in ROLES:
        known = ", ".join([*ROLES, *ALIASES])
        raise _error(record, f"{name} has the {role_key} {theirs!r}; known are {known}")
    others = {
        key: value
        for key, value in turn.items()
        if key not in (role_key, content_key, "role", "content") and value is not None
    }
    content = _content(record, turn.get(content_key), name)
    if role == ASSISTANT and not content.strip() and not others.get("tool_calls"):
        raise _error(record, f"{name}, the assistant's, is empty; give an answer, or leave it out")
    return {"role": role, "content": content, **others}


def _content(record: ExampleRecord, content: Any, name: str) -> str:
    """What a turn says; parts of text are one text, as the API of OpenAI has them."""
    if content is None:
        return ""
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and part.get("type") == "text" for part in content
    ):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise _error(record, f"{name} says a {type(content).__name__}, not text")
    if not content.isascii():
        try:
            content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _error(record, f"{name} has a lone surrogate at {error.start}") from error
    return content


def _prompt(record: ExampleRecord) -> list[dict[str, Any]]:
    return _pair(record, record.text("prompt", key=KEY), "completion")


def _instruction(record: ExampleRecord) -> list[dict[str, Any]]:
    question = record.text("instruction", key=KEY)
    if record.fields.get("input"):
        question = f"{question}\n\n{record.text('input', key=KEY)}"
    return _pair(record, question, "output")


def _pair(record: ExampleRecord, question: str, answer: str) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": question},
        {"role": ASSISTANT, "content": record.text(answer, key=KEY)},
    ]


def _tools(record: ExampleRecord) -> tuple[dict[str, Any], ...] | None:
    tools = record.fields.get("tools")
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _error(record, "'tools' is no list of JSON schemas")
    return tuple(tools)


def _error(record: ExampleRecord, problem: str) -> DatasetError:
    return DatasetError(KEY, f"{record.where}: {problem}")


# The first form whose fields are all there is the record's: some have a copy of the prompt beside.
_FORMS: dict[tuple[str, ...], Callable[[ExampleRecord], list[dict[str, Any]]]] = {
    ("messages",): _turns("messages"),
    ("conversations",): _turns("conversations"),
    ("prompt", "completion"): _prompt,
    ("instruction", "output"): _instruction,
}
