"""gcsfs, but that a file which is written goes up as a whole when it is closed.

That is one request in place of two. And where an upload has to be tried again, gcsfs keeps views
of its buffer in the frames of exceptions, on which the garbage collector of Python 3.12.0 and
3.12.1 crashes (https://github.com/python/cpython/issues/111049).
"""

import io
from typing import Any

from gcsfs.core import GCSFileSystem


class WholeUploads(GCSFileSystem):
    """See the top of this file. Files that are read, or appended to, are gcsfs's own."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return _Upload(self, path) if mode == "wb" else super()._open(path, mode, **options)


class _Upload(io.BytesIO):
    """A file that is written in memory."""

    def __init__(self, files: GCSFileSystem, path: str) -> None:
        super().__init__()
        self._files, self._path = files, path

    def close(self) -> None:
        """Send it; a second call does nothing."""
        if not self.closed:
            content = self.getvalue()
            super().close()  # first: what is collected later must not go up again
            self._files.pipe_file(self._path, content)
