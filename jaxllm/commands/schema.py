"""What a config may hold: as a JSON schema, as a list of keys, and the shipped examples."""

import json
import textwrap
from collections.abc import Iterator, Sequence

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jaxllm.config import RunConfig
from jaxllm.config_errors import alternatives, is_section, kind_of, sections
from jaxllm.config_files import shipped_configs


def json_schema() -> str:
    """The JSON schema of RunConfig, which lets editors complete and check a YAML config."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **RunConfig.model_json_schema()}, indent=2)


def list_configs() -> str:
    """Name and first line (the launch command) of every shipped config."""
    shipped = shipped_configs()
    width = max(map(len, shipped), default=0)
    lines = [
        f"{name:{width}}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}"
        for name, path in shipped.items()
    ]
    return "\n".join(lines)


NOTATION = """In brackets stands the type that a section must have: optim[muon].ns_steps is the key
optim.ns_steps where optim.type is muon. NAME is a name that you choose. N counts the items of a
list; on the command line a list is given whole: metrics.loggers=[{type: trackio, project: p}]."""


def describe_fields() -> str:
    """How keys are written, and every key with its default and meaning, one paragraph each."""
    lines = [*textwrap.wrap(" ".join(NOTATION.split()), 98), ""]
    for key, default, meaning in _fields([RunConfig], ""):
        lines.append(f"  {key}{default}")
        lines.extend(
            textwrap.wrap(meaning, 92, initial_indent="      ", subsequent_indent="      ")
        )
    return "\n".join(lines)


def _fields(kinds: Sequence[type[BaseModel]], prefix: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of the fields of a section, which may be of several kinds.

    What several kinds have alike is there once.
    """
    alike: dict[tuple[str, str], list[type[BaseModel]]] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if name != "type" or len(kinds) == 1:
                alike.setdefault((name, repr(field)), []).append(kind)
    for (name, _), owners in alike.items():
        is_of_all = len(owners) == len(kinds)
        choice = "" if is_of_all else f"[{','.join(str(kind_of(kind)) for kind in owners)}]"
        key = f"{prefix}{choice}.{name}".removeprefix(".")
        yield from _field(key, owners[0].model_fields[name])


def _field(key: str, field: FieldInfo) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of a field, then of what it holds."""
    meaning = " ".join((field.description or "").split())
    inside = list(sections(field.annotation, key))
    is_always_section = all(map(is_section, alternatives(field.annotation)))
    if not is_always_section:
        yield key, _default(field), meaning
    if not inside:
        return
    path, kinds = inside[0][0], [kind for _, kind in inside]
    if len(kinds) > 1:
        has_default = isinstance(field.default, BaseModel)
        default = f" = {json.dumps(kind_of(type(field.default)))}" if has_default else " (required)"
        choice = f"One of {', '.join(str(kind_of(kind)) for kind in kinds)}."
        yield f"{path}.type", default, f"{meaning} {choice}" if is_always_section else choice
    yield from _fields(kinds, path)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return " (required)"
    value = field.get_default(call_default_factory=True)
    return f" = {json.dumps(value, default=str)}"
