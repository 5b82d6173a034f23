"""Files as records: each one's bytes, and the folder that it is in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from jaxllm.data.documents import expand_paths
from jaxllm.data.example_record import ExampleRecord
from jaxllm.schema import Config


class FilesExamplesConfig(Config):
    """Files, a record each, with the fields `file` (its bytes), `name` and `folder`."""

    type: Literal["files"] = "files"
    """Kind of source: whole files, as pictures in a folder for each class."""
    paths: tuple[str, ...] = Field(min_length=1)
    """Files and globs to read; `package://NAME/GLOB` names files of an installed package."""

    def all_files(self) -> tuple[Path, ...]:
        """The files whose bytes are the content."""
        return expand_paths(self.paths, key="source.paths")

    def read_of_paths(self) -> list[list[str]]:
        """What of the paths is in the records, as JSON: a file has another class elsewhere."""
        return [[path.name, path.parent.name] for path in self.all_files()]

    def records(self) -> Iterator[ExampleRecord]:
        """The records in order, named by their paths; name and folder are the last parts of it."""
        for path in self.all_files():
            fields = {"file": path.read_bytes(), "name": path.name, "folder": path.parent.name}
            yield ExampleRecord(fields, str(path))
