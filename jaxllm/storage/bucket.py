"""A folder in a bucket: its objects are listed, fetched and sent as whole files.

gcsfs tries what fails in passing (429, 5xx, cut connections) six times, over half a minute. What
it gives up is an OSError here that names the place.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from jaxllm.storage import as_path, text_of


class Stored(NamedTuple):
    """What a listing says of an object."""

    size: int
    md5: str
    """In base64; empty for an object that was composed of others."""


class BucketFiles:
    """The objects under a gs:// URL, by their names below it."""

    def __init__(self, url: str) -> None:
        """ValueError for a URL that is none, or without gcsfs installed."""
        as_path(url)
        self.url = text_of(url)
        import fsspec

        self._gcsfs: Any = fsspec.filesystem("gcs")

    def names(self) -> list[str]:
        """What lies in the folder itself, sorted; the name of a folder in it ends with a slash.

        Nothing, where there is no such folder in the bucket.
        """
        with self._in_words():
            try:
                entries = self._gcsfs.ls(self.url, detail=True)
            except FileNotFoundError:
                bucket, _, folder = self.url.removeprefix("gs://").partition("/")
                self._gcsfs.find(bucket, prefix=f"{folder}/")  # another error without the bucket
                return []
        found = {
            f"{self._below(entry['name'])}{'/' if entry['type'] == 'directory' else ''}"
            for entry in entries
        }
        return sorted(found - {"/"})  # the marker of a folder that was made by hand

    def objects(self, names: Sequence[str]) -> dict[str, Stored]:
        """The objects of these names, and all below those that end with a slash."""
        found: dict[str, Stored] = {}
        with self._in_words():
            for name in names:
                entries = self._gcsfs.find(f"{self.url}/{name}".rstrip("/"), detail=True)
                for entry in entries.values():
                    stored = Stored(entry["size"], entry.get("md5Hash", ""))
                    found[self._below(entry["name"])] = stored
        return {name: stored for name, stored in found.items() if not name.endswith("/")}

    def fetch(self, files: Mapping[str, Path]) -> None:
        """Copy objects into local files, several at a time."""
        with self._in_words():
            for path in files.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            self._gcsfs.get(
                [f"{self.url}/{name}" for name in files], [str(path) for path in files.values()]
            )

    def send(self, name: str, content: bytes) -> None:
        """Write an object as a whole: a reader sees the old or the new one."""
        with self._in_words(name):
            self._gcsfs.pipe_file(f"{self.url}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        with self._in_words(name), suppress(FileNotFoundError):
            self._gcsfs.rm_file(f"{self.url}/{name}")

    def _below(self, name: str) -> str:
        """The part of `bucket/path` under this folder."""
        return name.removeprefix(self.url.removeprefix("gs://")).lstrip("/")

    @contextmanager
    def _in_words(self, name: str = "") -> Iterator[None]:
        place = f"{self.url}/{name}".rstrip("/")
        try:
            yield
        except FileNotFoundError as error:
            raise OSError(
                f"{place}: there is no such bucket or object; make the bucket first, or give "
                "another place"
            ) from error
        except _failures() as error:
            words = str(error) or type(error).__name__
            raise OSError(f"{place}: the bucket could not be reached: {words}") from error


def _failures() -> tuple[type[Exception], ...]:
    """What gcsfs raises where a request failed for good."""
    from aiohttp import ClientError
    from gcsfs.retry import HttpError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    return OSError, ValueError, HttpError, ClientError, RequestException, GoogleAuthError
