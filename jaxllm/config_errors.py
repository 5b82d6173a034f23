"""Pydantic's validation errors in the words of a user: path, what was given, what is allowed."""

import builtins
import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line a problem, with the dotted path of the key as it stands in the file."""
    return [line for problem in error.errors() for line in _line(problem, root).splitlines()]


def _line(problem: Any, root: type[BaseModel]) -> str:
    keys, classes = _walk(problem["loc"], root)
    path = ".".join(keys)
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            names = sorted({name for cls in classes for name in cls.model_fields})
            return f"{path}: unknown key{_did_you_mean(keys[-1], names)}"
        case "missing":
            return f"{path}: missing; {_description(classes, keys[-1])}"
        case "union_tag_invalid":
            tags = [tag.strip().strip("'") for tag in problem["ctx"]["expected_tags"].split(",")]
            return (
                f"{path}.type: {problem['ctx']['tag']!r} is none of {', '.join(tags)}"
                + _did_you_mean(problem["ctx"]["tag"], tags, silent=True)
            )
        case "union_tag_not_found":
            return f"{path}.type: missing; it says which kind this is"
        case "value_error":
            return "\n".join(
                f"{path}: {text}" if path else text
                for text in str(problem["ctx"]["error"]).splitlines()
            )
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{path}: given {given!r}; {message}"


def _did_you_mean(name: str, allowed: list[str], *, silent: bool = False) -> str:
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return "" if silent else f"; allowed here: {', '.join(allowed)}"


def _description(classes: list[type[BaseModel]], key: str) -> str:
    for cls in classes:
        if key in cls.model_fields:
            return cls.model_fields[key].description or "it has no default"
    return "it has no default"


def _walk(
    location: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]]]:
    """The keys as written in the file, and the config classes that the last key belongs to.

    Pydantic puts the tag of a union into the path; the file does not have it there.
    """
    keys: list[str] = []
    inside: list[Any] = [root]
    around = [root]
    for element in location:
        classes = [kind for kind in inside if _is_config(kind)]
        if len(classes) > 1:  # a union, so this is the tag of one of them
            inside = around = [cls for cls in classes if _tag(cls) == element]
            continue
        keys.append(str(element))
        around = classes
        inside = [found for kind in inside for found in _under(kind, element)]
    return keys, around


def _under(kind: Any, key: int | str) -> list[Any]:
    """The types that may stand under a key of a config, a dict or a tuple."""
    if _is_config(kind):
        field = kind.model_fields.get(key)
        return [] if field is None else _alternatives(field.annotation)
    match typing.get_origin(kind), typing.get_args(kind):
        case (builtins.dict, (_, value)):
            return _alternatives(value)
        case (builtins.tuple, (item, *_)):
            return _alternatives(item)
    return []


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, of any other type itself, without what is annotated to it."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(inner[0])
    if origin in (typing.Union, types.UnionType):
        return [found for member in inner for found in _alternatives(member)]
    return [annotation]


def _is_config(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _tag(cls: type[BaseModel]) -> Any:
    field = cls.model_fields.get("type")
    return None if field is None else field.default
