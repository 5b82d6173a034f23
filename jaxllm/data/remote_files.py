"""Files of this machine or in a bucket: their sizes and content, brought here and sent there.

gcsfs tries requests again that fail for a while; what still fails is an OSError that names the
file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jaxllm.storage import as_path, is_remote, text_of

THREADS = 16  # requests at a time; each waits for the network far longer than it computes


def exists(path: Path) -> bool:
    """Whether a file is there, of this machine or in a bucket that can be reached."""
    if not is_remote(path):
        return path.is_file()
    try:
        return bool(_info(text_of(path))["type"] == "file")
    except FileNotFoundError:
        return False


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises OSError for one that is missing."""
    if not is_remote(path):
        return path.read_bytes()
    url = text_of(path)
    with reached(url):
        return bytes(_files(url).cat_file(url))


@contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """Opens a file for reading, of this machine or in a bucket; one that can be entered midway."""
    if not is_remote(path):
        with open(path, "rb") as file:
            yield file
        return
    with reached(path), _files(path).open(text_of(path), "rb") as remote:
        yield remote


def file_sizes(paths: Sequence[Path]) -> list[int]:
    """Bytes of each file. Raises OSError for one that is missing."""
    remote = iter(_infos([path for path in paths if is_remote(path)]))
    return [next(remote)["size"] if is_remote(path) else path.stat().st_size for path in paths]


def checksums(paths: Sequence[Path]) -> list[str | None]:
    """What the bucket says of each file's content; None where it only says what would change.

    Composite objects have no md5 but a crc32c, which with the size tells changes apart too.
    """
    return [_checksum(info) for info in _infos(paths)]


def _checksum(info: dict[str, Any]) -> str | None:
    for kind in ("md5Hash", "crc32c"):
        if kind in info:
            return f"{kind}:{info[kind]}:{info['size']}"
    return None


def folder_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file directly in a folder, by name; none for a folder that is not there."""
    if not is_remote(folder):
        found = folder.iterdir() if folder.is_dir() else ()
        return {path.name: path.stat().st_size for path in found if path.is_file()}
    url = text_of(folder)
    with reached(url):
        try:
            listed = _files(url).ls(url, detail=True)
        except FileNotFoundError:
            return {}
    return {Path(f["name"]).name: f["size"] for f in listed if f["type"] == "file"}


def glob_files(pattern: str) -> list[Path]:
    """The files of a bucket that a glob names, sorted. Raises OSError if it cannot be listed."""
    url = text_of(pattern)
    with reached(url):
        found = _files(url).glob(url, detail=True)
    return [
        as_path(f"gs://{name}") for name, info in sorted(found.items()) if info["type"] == "file"
    ]


def read_range(path: Path, first: int, count: int) -> bytes:
    """The bytes [first, first + count) of a file in a bucket."""
    url = text_of(path)
    with reached(url):
        return _files(url).cat_file(url, start=first, end=first + count)


def fetch_file(source: Path, target: Path) -> None:
    """Copies a file of a bucket here; `target` is complete only when this returns."""
    url = text_of(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    with reached(url):
        _files(url).get_file(url, str(target))


def send_file(source: Path, target: Path) -> None:
    """Copies a file of this machine to a bucket, where it appears in full or not at all."""
    url = text_of(target)
    with reached(url):
        _files(url).put_file(str(source), url)


def fetch_folder(source: Path, target: Path) -> None:
    """Copies the files that are directly in a folder of a bucket."""
    in_threads(lambda name: fetch_file(source / name, target / name), folder_sizes(source))


def send_folder(source: Path, target: Path, *, last: str | None = None) -> None:
    """Copies a folder with all that is in it to a bucket, the file `last` after all others."""
    files = (path for path in source.rglob("*") if path.is_file())
    names = sorted(str(path.relative_to(source)) for path in files)
    first = [name for name in names if name != last]
    in_threads(lambda name: send_file(source / name, target / name), first)
    if last is not None:
        send_file(source / last, target / last)


def remove_folder(folder: Path) -> None:
    """Removes all that is in a folder of a bucket."""
    url = text_of(folder)
    with reached(url):
        try:
            _files(url).rm(url, recursive=True)
        except FileNotFoundError:
            return


def in_threads[Item, Result](
    function: Callable[[Item], Result], items: Iterable[Item]
) -> list[Result]:
    """What a function that waits for the network gives for each item, in their order."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, items))


def _infos(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return in_threads(_info, map(text_of, paths))


def _info(url: str) -> dict[str, Any]:
    with reached(url):
        return _files(url).info(url)


def _files(url: str) -> Any:
    """gcsfs, told by `as_path` not to remember listings."""
    as_path(url)
    import fsspec

    return fsspec.filesystem("gs")


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Turns what gcsfs raises, when it has given up, into an OSError that names the file."""
    import aiohttp
    import gcsfs.retry
    import google.auth.exceptions
    import requests

    try:
        yield
    except (
        gcsfs.retry.HttpError,
        gcsfs.retry.ChecksumError,
        aiohttp.ClientError,
        requests.RequestException,
        google.auth.exceptions.GoogleAuthError,
    ) as error:
        raise OSError(f"{url} cannot be reached: {error or type(error).__name__}") from error
