"""One object in a bucket that is replaced only by who knows its present version.

Through TensorStore, which writes under the condition of a generation and tries again what fails in
passing: https://google.github.io/tensorstore/kvstore/gcs/
"""

from typing import Any

from jaxllm.storage import as_path, text_of


class StoredObject:
    """The object at a gs:// URL. OSError from every method where the bucket cannot be reached."""

    def __init__(self, url: str, *, timeout: float = 5.0) -> None:
        """timeout: seconds that one reading or writing may take, with all its tries."""
        as_path(url)
        self.url, self._timeout = text_of(url), timeout
        folder, _, self._key = self.url.rpartition("/")
        import tensorstore

        self._store: Any = tensorstore.KvStore.open(f"{folder}/").result()
        self._version: bytes | None = None

    def read(self) -> bytes:
        """The content, b"" where there is no such object. Its version is the known one now."""
        found = self._result(self._store.read(self._key))
        self._version = found.stamp.generation
        return found.value

    def write(self, content: bytes) -> bool:
        """Replace the object, unless it is another version than was read or written last.

        Whether it was done. Of two who know the same version, one at most gets True. A write whose
        answer was lost and that was tried again gets False too: read to see whose it is.
        """
        assert self._version is not None  # read before the first write
        done = self._result(self._store.write(self._key, content, if_equal=self._version))
        if done.generation:
            self._version = done.generation
        return bool(done.generation)

    def _result(self, future: Any) -> Any:
        try:
            return future.result(timeout=self._timeout)
        except TimeoutError as error:
            raise OSError(f"{self.url}: no answer within {self._timeout:g} s") from error
        except ValueError as error:  # as TensorStore tells all that the service refuses
            raise OSError(f"{self.url}: {error}") from error
