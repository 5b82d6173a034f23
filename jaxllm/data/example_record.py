"""One record of labelled texts as it was read, and what is looked up in it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxllm.data.dataset_error import DatasetError


@dataclass(frozen=True)
class ExampleRecord:
    """The fields of a record by name, and its place as a user would look it up (`FILE:LINE`)."""

    fields: Mapping[str, Any]
    where: str

    @property
    def num_bytes(self) -> int:
        """About how much was read, by its texts."""
        return sum(len(value) for value in self.fields.values() if isinstance(value, str | bytes))

    def text(self, field: str, *, key: str) -> str:
        """A text. DatasetError, under the key that names the field, if it is none or is empty."""
        value = self._value(field, key=key)
        if not isinstance(value, str):
            kind = "null" if value is None else f"a {type(value).__name__}"
            raise self._error(key, f"{field!r} is {kind}, not text")
        if not value.strip():
            raise self._error(
                key, f"{field!r} is empty; give a text, or leave the record out of the data"
            )
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self._error(key, f"{field!r} has a lone surrogate at {error.start}") from error
        return value

    def name(self, field: str, *, key: str) -> str:
        """A value that names something, such as a class or a group, as text."""
        value = self._value(field, key=key)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int):
            return str(value).strip()
        raise self._error(key, f"{field!r} is {value!r}; give text or a whole number")

    def number(self, field: str, *, key: str) -> float:
        """A finite number, which text may spell."""
        value = self._value(field, key=key)
        try:
            number = float(value) if isinstance(value, str | int | float) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self._error(key, f"{field!r} is {value!r}; give a number")
        return number

    def class_of(self, field: str, names: Mapping[str, int], *, key: str) -> int:
        """Which of the named classes a value is."""
        name = self.name(field, key=key)
        if name not in names:
            raise self._error(
                key,
                f"{field!r} is {name!r}, which is not one of {', '.join(map(repr, names))}; add it "
                "to `labels`, or repair the record",
            )
        return names[name]

    def _value(self, field: str, *, key: str) -> Any:
        if field not in self.fields:
            there = ", ".join(map(repr, self.fields)) or "none"
            raise self._error(key, f"there is no field {field!r} (fields: {there})")
        return self.fields[field]

    def _error(self, key: str, problem: str) -> DatasetError:
        return DatasetError(key, f"{self.where}: {problem}")
