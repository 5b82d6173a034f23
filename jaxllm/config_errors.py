"""Pydantic's validation errors in the words of a user: path, what was given, what is allowed."""

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line a problem, with the dotted path of the key as it stands in the file."""
    return [_line(problem, root) for problem in error.errors()]


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
            text = str(problem["ctx"]["error"])
            return f"{path}: {text}" if path else text
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
    inside, around = [root], [root]
    for element in location:
        tagged = [cls for cls in inside if _tag(cls) == element]
        if tagged and not any(element in cls.model_fields for cls in inside):
            inside = around = tagged
            continue
        keys.append(str(element))
        around = inside
        fields = [cls.model_fields[element] for cls in inside if element in cls.model_fields]
        if fields:
            inside = [cls for field in fields for cls in _classes(field.annotation)]
    return keys, around


def _tag(cls: type[BaseModel]) -> Any:
    field = cls.model_fields.get("type")
    return None if field is None else field.default


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """The config classes anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias) or typing.get_args(annotation):
        return [cls for inner in typing.get_args(annotation) for cls in _classes(inner)]
    return []
