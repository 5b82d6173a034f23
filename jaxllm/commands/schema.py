"""What a config may hold: as a JSON schema, as a list of keys, and the shipped examples."""

import json
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jaxllm.config import RunConfig, shipped_configs


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


def describe_fields() -> str:
    """Every key of the config with its default and meaning, one paragraph each."""
    lines = []
    for key, field in _fields(RunConfig, ""):
        text = " ".join((field.description or "").split())
        lines.append(f"  {key}{_default(field)}")
        lines.extend(textwrap.wrap(text, 92, initial_indent="      ", subsequent_indent="      "))
    return "\n".join(lines)


def _fields(cls: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in cls.model_fields.items():
        inner = list(_nested(field.annotation))
        if not inner:
            if name != "type":
                yield f"{prefix}{name}", field
            continue
        is_mapping = typing.get_origin(field.annotation) is dict
        path = f"{prefix}{name}.NAME" if is_mapping else f"{prefix}{name}"
        for member in inner:
            kind = f"[{_tag(member)}]" if len(inner) > 1 else ""
            yield from _fields(member, f"{path}{kind}.")


def _nested(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in typing.get_args(annotation):
        yield from _nested(inner)


def _tag(cls: type[BaseModel]) -> str:
    field = cls.model_fields.get("type")
    return cls.__name__ if field is None else str(field.default)


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return " (required)"
    value = field.get_default(call_default_factory=True)
    return f" = {json.dumps(value, default=str)}"
