"""Pydantic's validation errors in the words of a user: path, what was given, what is allowed.

`sections` and what is beside it at the end read the tree that config classes form.
"""

import builtins
import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

# What is allowed, where pydantic would name a type of Python.
_ALLOWED = {
    "tuple_type": "a list",
    "dict_type": "a section with keys",
    "model_type": "a section with keys",
    "model_attributes_type": "a section with keys",
}


def explain(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One line a problem, with the dotted path of the key as it stands in the file."""
    return [line for problem in error.errors() for line in _line(problem, root).splitlines()]


def _line(problem: Any, root: type[BaseModel]) -> str:
    keys, classes, kinds = _walk(problem["loc"], root)
    path = ".".join(keys)
    given = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"{path}: unknown key; {_instead(path, keys[-1], classes, root)}"
        case "missing":
            return f"{path}: missing; {_description(classes, keys[-1])}"
        case "union_tag_invalid":
            tags = [tag.strip().strip("'") for tag in problem["ctx"]["expected_tags"].split(",")]
            return f"{path}.type: {problem['ctx']['tag']!r} is none of {', '.join(tags)}" + "".join(
                f"; {hint}" for hint in _did_you_mean(problem["ctx"]["tag"], tags)
            )
        case "union_tag_not_found":
            tags = [str(kind_of(kind)) for kind in kinds if is_section(kind)]
            return f"{path}.type: missing; it is one of {', '.join(tags)}"
        case "too_short":
            return f"{path}: given {given!r}; needs at least {problem['ctx']['min_length']}"
        case "value_error":
            return "\n".join(
                f"{path}: {text}" if path else text
                for text in str(problem["ctx"]["error"]).splitlines()
            )
        case kind if kind in _ALLOWED:
            return f"{path}: given {given!r}; input should be {_ALLOWED[kind]}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{path}: given {given!r}; {message}"


def _instead(path: str, name: str, classes: list[type[BaseModel]], root: type[BaseModel]) -> str:
    """What may have been meant by an unknown key: one like it here, or its name elsewhere."""
    here = sorted({key for cls in classes for key in cls.model_fields})
    elsewhere = [] if name == "type" else [key for key in _places(name, root) if key != path]
    for hint in _did_you_mean(name, here):
        return hint
    if elsewhere:
        return f"did you mean {' or '.join(map(repr, dict.fromkeys(elsewhere)))}?"
    return f"allowed here: {', '.join(here)}"


def _places(name: str, root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every path in the tree below a config at which a key of this name may stand."""
    for key, field in root.model_fields.items():
        if key == name:
            yield f"{prefix}{key}"
        for path, section in sections(field.annotation, f"{prefix}{key}"):
            yield from _places(name, section, f"{path}.")


def _did_you_mean(name: str, allowed: list[str]) -> list[str]:
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.65)
    return [f"did you mean {found!r}?" for found in close]


def _description(classes: list[type[BaseModel]], key: str) -> str:
    for cls in classes:
        if key in cls.model_fields:
            return cls.model_fields[key].description or "it has no default"
    return "it has no default"


def _walk(
    location: tuple[int | str, ...], root: type[BaseModel]
) -> tuple[list[str], list[type[BaseModel]], list[Any]]:
    """The keys as written in the file, the classes that the last belongs to, the types under it.

    Pydantic puts the tag of a union into the path; the file does not have it there.
    """
    keys: list[str] = []
    inside: list[Any] = [root]
    around = [root]
    for element in location:
        classes = [kind for kind in inside if is_section(kind)]
        if len(classes) > 1:  # a union, so this is the tag of one of them
            inside = around = [cls for cls in classes if kind_of(cls) == element]
            continue
        keys.append(str(element))
        around = classes
        inside = [found for kind in inside for found in _under(kind, element)]
    return keys, around, inside


def _under(kind: Any, key: int | str) -> list[Any]:
    """The types that may stand under a key of a config, a dict or a tuple."""
    if is_section(kind):
        field = kind.model_fields.get(str(key))
        return [] if field is None else alternatives(field.annotation)
    match typing.get_origin(kind), typing.get_args(kind):
        case (builtins.dict, (_, value)):
            return alternatives(value)
        case (builtins.tuple, (item, *_)):
            return alternatives(item)
    return []


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, of any other type itself, without what is annotated to it."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return alternatives(inner[0])
    if origin in (typing.Union, types.UnionType):
        return [found for member in inner for found in alternatives(member)]
    return [annotation]


def is_section(kind: Any) -> typing.TypeGuard[type[BaseModel]]:
    """Whether a type is a config class."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def kind_of(cls: type[BaseModel]) -> Any:
    """The value of `type` that chooses this class among others; None where it has no `type`."""
    field = cls.model_fields.get("type")
    return None if field is None else field.default


def sections(annotation: Any, key: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(key, class) of every config that a field of this type may hold.

    NAME stands for the key in a dictionary, N for the place in a list.
    """
    for kind in alternatives(annotation):
        if is_section(kind):
            yield key, kind
        match typing.get_origin(kind), typing.get_args(kind):
            case (builtins.dict, (_, value)):
                yield from sections(value, f"{key}.NAME")
            case (builtins.tuple, (item, *_)):
                yield from sections(item, f"{key}.N")
