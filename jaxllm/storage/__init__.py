"""Where things are kept: a folder of this machine, or a place in a Google Cloud Storage bucket.

A path is a plain one or gs://BUCKET/NAME. Of other schemes none is known. Objects in a bucket are
read and written through gcsfs, over HTTPS, by everything here and by all that takes an
`etils.epath.Path`; array data goes through TensorStore.
"""

import importlib.util
import logging
import os
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etils import epath

# pathlib makes gs:/bucket of gs://bucket, and a path that came through it is put right here.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_FILES = "jaxllm.storage.uploads.WholeUploads"
_GCS = re.compile(r"gs:/{1,2}([^/]+)(?:/+(.*))?", re.DOTALL)


def is_remote(path: str | PurePath) -> bool:
    """Whether a path is in a bucket. ValueError for a scheme other than gs://, or no bucket."""
    return _url(path) is not None


def as_path(path: "str | PurePath | epath.Path") -> "Path | epath.Path":
    """A path to work with: a `pathlib.Path`, or an `epath.Path` for one in a bucket.

    ValueError for a scheme other than gs://, no bucket, or gs:// without gcsfs installed.
    """
    url = _url(path)
    if url is None:
        return Path(path)
    _use_gcsfs(url)
    from etils import epath

    return epath.Path(url)


def text_of(path: str | PurePath) -> str:
    """A path as a person writes it, also where pathlib took a slash of gs://."""
    return _url(path) or str(path)


def _url(path: str | PurePath) -> str | None:
    """The normal form of a path in a bucket, without a slash at its end; None for a local one."""
    text = os.fspath(path)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return None
    if scheme[1] != "gs":
        raise ValueError(
            f"{text}: {scheme[1]}:// is not supported; give a folder of this machine or "
            "gs://BUCKET/FOLDER"
        )
    found = _GCS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} names no bucket; give gs://BUCKET/FOLDER")
    name = "/".join(part for part in (found[2] or "").split("/") if part)
    return f"gs://{found[1]}/{name}" if name else f"gs://{found[1]}"


def _use_gcsfs(url: str) -> None:
    """Make gcsfs what this process reaches buckets by; ValueError if it is not installed.

    Its cache of listings never ends, so that it would not see what other processes write.
    Its way over gRPC asks a second service for the kind of the bucket first; only zonal buckets
    need it. TensorFlow's own file system would come first where it is installed. What it raises it
    also logs, with a traceback.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(f"{url}: gs:// needs gcsfs, which is not installed: add jaxllm[gcp]")
    os.environ.setdefault("EPATH_USE_TF", "false")
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    import fsspec

    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    for protocol in ("gs", "gcs"):  # by its name, for gcsfs takes a second to be imported
        fsspec.register_implementation(protocol, _FILES, clobber=True)
