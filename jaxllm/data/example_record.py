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
        """A text, or bytes in UTF-8, as files are read.

        DatasetError, under the key that names the field, if it is none or is empty.
        """
        value = self.value(field, key=key)
        if isinstance(value, bytes):
            try:
                value = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self._error(key, f"{field!r} is not UTF-8: byte {error.start}") from error
        if not isinstance(value, str):
            kind = "null" if value is None else f"a {type(value).__name__}"
            raise self._error(key, f"{field!r} is {kind}, not text")
        if not value.strip():
            raise self._error(
                key, f"{field!r} is empty; give a text, or leave the record out of the data"
            )
        return self._unicode(value, repr(field), key=key)

    def name(self, field: str, *, key: str) -> str:
        """A value that names something, such as a class or a group, as text."""
        value = self.value(field, key=key)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int):
            return str(value).strip()
        raise self._error(key, f"{field!r} is {value!r}; give text or a whole number")

    def number(self, field: str, *, key: str) -> float:
        """A finite number, which text may spell."""
        value = self.value(field, key=key)
        try:
            number = float(value) if isinstance(value, str | int | float) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self._error(key, f"{field!r} is {value!r}; give a number")
        return number

    def class_of(self, field: str, names: Mapping[str, int], *, key: str) -> int:
        """Which of the named classes a value is."""
        return self._class(self.name(field, key=key), field, names, key=key)

    def classes_of(
        self, field: str, names: Mapping[str, int], *, key: str, separator: str
    ) -> list[int]:
        """Which of the named classes are in a list, or in a text with separators; maybe none."""
        value = self.value(field, key=key)
        if isinstance(value, str):
            value = value.split(separator) if value.strip() else []
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise self._error(
                key, f"{field!r} is {value!r}; give a list of names, or a text that separates them"
            )
        return [self._class(name.strip(), field, names, key=key) for name in value]

    def listed(self, field: str, *, key: str) -> list[Any]:
        """The values of a list."""
        value = self.value(field, key=key)
        if not isinstance(value, list | tuple):
            kind = "null" if value is None else f"a {type(value).__name__}"
            raise self._error(key, f"{field!r} is {kind}, not a list")
        return list(value)

    def texts(self, field: str, *, key: str) -> list[str]:
        """The texts of a list, which may be empty ones."""
        values = self.listed(field, key=key)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self._error(key, f"{field}[{number}] is {value!r}, not text")
            self._unicode(value, f"{field}[{number}]", key=key)
        return values

    def objects(self, field: str, *, key: str) -> list[Mapping[str, Any]]:
        """The objects of a list."""
        values = self.listed(field, key=key)
        for number, value in enumerate(values):
            if not isinstance(value, Mapping):
                raise self._error(key, f"{field}[{number}] is {value!r}, not an object")
        return values

    def _unicode(self, value: str, name: str, *, key: str) -> str:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self._error(key, f"{name} has a lone surrogate at {error.start}") from error
        return value

    def _class(self, name: str, field: str, names: Mapping[str, int], *, key: str) -> int:
        if name not in names:
            raise self._error(
                key,
                f"{field!r} is {name!r}, which is not one of {', '.join(map(repr, names))}; add it "
                "to `labels`, or repair the record",
            )
        return names[name]

    def value(self, field: str, *, key: str) -> Any:
        """Whatever a field holds. DatasetError if there is none."""
        if field not in self.fields:
            there = ", ".join(map(repr, self.fields)) or "none"
            raise self._error(key, f"there is no field {field!r} (fields: {there})")
        return self.fields[field]

    def _error(self, key: str, problem: str) -> DatasetError:
        return DatasetError(key, f"{self.where}: {problem}")
