"""Write docs/configuration.md, the reference of every config key, from the config classes.

    python scripts/docs_configuration.py

Keys, allowed values, defaults and sentences are those that RunConfig checks with. The tests compare
the file with what this would write, so run it after a change of a config class.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jaxllm.config import RunConfig
from jaxllm.config_errors import kind_of, sections

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """\
# Configuration

<!-- Written by scripts/docs_configuration.py from the config classes; do not edit. -->

One YAML file describes a run. These are all keys that it may have, as the classes of jaxllm check
them: an unknown key, a wrong type or a value out of range is refused before anything is computed,
with every problem and its path. Most keys have a default; `required` marks the others.

- On the command line any key is set by its path, as `training.steps=100`. The value is YAML:
  `optim.schedule='{type: cosine, warmup_steps: 100}'` replaces a whole section.
- A section that exists in several kinds chooses one by `type`. Keys that only some kinds have name
  them in the column "for". NAME is a name that you choose, N the place in a list.
- Widths, counts and lengths are integers. `null` means what the sentence says.
- `jaxllm train --help` prints the same list, `jaxllm schema` a JSON schema with which editors
  complete and check a file. The run folder's `config.yaml` has every key with its value.
- `xla_flags` are explained in [Compile before you rent](compile.md#compiler-options).
- The shipped configs (`jaxllm configs`) show the keys in use; `jaxllm train CONFIG --dry-run`
  checks a file together with its data.
"""

GUIDES = {
    "init_from": ("Published models", "huggingface.md"),
    "model": ("an option of the model", "extending/model_option.md"),
    "data": ("Data", "data.md"),
    "objective": ("an objective", "extending/objective.md"),
    "optim": ("an optimizer", "extending/optimizer.md"),
    "training": ("What a run survives", "reliability.md"),
    "parallel": ("Layouts", "layouts.md"),
    "checkpoints": ("What a run survives", "reliability.md#checkpoints"),
    "evaluation": ("Evaluation", "evaluation.md"),
}
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
PLAIN = {"integer": "integer", "number": "number", "string": "text", "boolean": "true, false"}
MOST = 2**30  # a bound beyond it only keeps a number in its machine type


class Row(NamedTuple):
    """A key as a line of a table."""

    name: str
    owners: Sequence[type[BaseModel]]
    """The kinds of the section that have the key just so."""
    field: FieldInfo


def page() -> str:
    """The whole page: the keys of a run first, then a part for each section."""
    lines = [HEAD, "## The run", "", *_table([RunConfig], "")]
    for name, field in RunConfig.model_fields.items():
        found = list(sections(field.annotation, name))
        if found:
            meaning = " ".join((field.description or "").split())
            guide = "See [{}]({}).".format(*GUIDES[name]) if name in GUIDES else ""
            lines += ["", f"## {name}", "", f"{meaning} {guide}".rstrip(), ""]
            lines += _section(found[0][0], [kind for _, kind in found], level=3)
    return "\n".join(lines) + "\n"


def _section(path: str, kinds: Sequence[type[BaseModel]], *, level: int) -> Iterator[str]:
    """The keys of a section, then those of the sections in it."""
    if len(kinds) > 1:
        for kind in kinds:
            yield f"- `type: {kind_of(kind)}` {_first_sentence(kind)}"
        yield ""
    yield from _table(kinds, path)
    for row in _rows(kinds):
        found = list(sections(row.field.annotation, f"{path}.{row.name}"))
        if not found:
            continue
        inner = found[0][0]
        yield from ("", f"{'#' * level} {inner}", "")
        owned = "" if len(row.owners) == len(kinds) else f" For {_names(row.owners)}."
        yield " ".join((row.field.description or "").split()) + owned
        yield ""
        yield from _section(inner, [kind for _, kind in found], level=min(level + 1, 4))


def _table(kinds: Sequence[type[BaseModel]], path: str) -> Iterator[str]:
    rows = list(_rows(kinds))
    has_owners = any(len(row.owners) < len(kinds) for row in rows)
    head = ["key", *(["for"] if has_owners else []), "value", "default", "meaning"]
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        owners = "all" if len(row.owners) == len(kinds) else _names(row.owners)
        cells = [
            _key(row, path),
            *([owners] if has_owners else []),
            _value(_properties(row.owners[0])[row.name]),
            _default(row.field),
            " ".join((row.field.description or "").split()),
        ]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _rows(kinds: Sequence[type[BaseModel]]) -> Iterator[Row]:
    """The keys of a section; what several kinds have alike is there once."""
    alike: dict[tuple[str, str], list[type[BaseModel]]] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if name != "type" or len(kinds) == 1:
                alike.setdefault((name, repr(field)), []).append(kind)
    names = list(dict.fromkeys(name for name, _ in alike))
    for (name, _), owners in sorted(alike.items(), key=lambda item: names.index(item[0][0])):
        yield Row(name, owners, owners[0].model_fields[name])


def _key(row: Row, path: str) -> str:
    """The key, with a link where it is a section of its own."""
    inside = next(sections(row.field.annotation, f"{path}.{row.name}".removeprefix(".")), None)
    if inside is None:
        return f"`{row.name}`"
    anchor = inside[0].replace(".", "").lower()
    return f"[`{row.name}`](#{anchor})"


@cache
def _properties(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schemas of a section's keys."""
    return dict(kind.model_json_schema()["properties"])


def _value(schema: Mapping[str, Any]) -> str:
    """What may stand there, in words."""
    if "anyOf" in schema:
        found = [_value(option) for option in schema["anyOf"]]
        return ", ".join(dict.fromkeys(found))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "oneOf" in schema:
        return "section by `type`"
    if "$ref" in schema:
        return "section"
    match schema["type"]:
        case "null":
            return "`null`"
        case "array":
            least = ", not empty" if schema.get("minItems") else ""
            return f"list of: {_value(schema['items'])}{least}"
        case "object":
            return f"by NAME: {_value(schema['additionalProperties'])}"
    words = PLAIN[schema["type"]]
    words += ", not empty" if schema.get("minLength") else ""
    limits = [
        f"{sign} {int(schema[bound]):,}"  # all are whole
        for bound, sign in BOUNDS.items()
        if bound in schema and schema[bound] < MOST
    ]
    return " ".join([words, " and ".join(limits)]).strip()


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        kind = kind_of(type(value))
        is_one_of_many = len(list(sections(field.annotation, ""))) > 1
        return f"`{kind}`" if is_one_of_many else "its defaults"
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def _names(kinds: Sequence[type[BaseModel]]) -> str:
    return ", ".join(f"`{kind_of(kind)}`" for kind in kinds)


def _first_sentence(kind: type[BaseModel]) -> str:
    """Of the docstring of a config class; the end of the sentence, or of its line of thought."""
    text = " ".join((kind.__doc__ or "").split())
    return text.split(". ")[0].rstrip(".") + "."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: {len(page().splitlines())} lines")
