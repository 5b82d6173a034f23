"""What the system refuses: one clear error, and another try where the refusal may pass."""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSES = (1.0, 5.0)  # seconds before the second and the third try

# What a network file system says while a server restarts or a link is down. A full disk, a file
# system that is read-only and missing rights do not pass by themselves.
TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.EIO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)


# What raises in the libraries that reach a bucket, by the class, as they are heavy to import.
# When they raise it they have tried for half a minute, TensorStore for some minutes.
_RAISED = {
    "gcsfs.ChecksumError": errno.EIO,
    "aiohttp.ClientError": errno.ECONNRESET,
    "requests.RequestException": errno.ECONNRESET,  # gcsfs raises one for status 502
    "google.TransportError": errno.ECONNRESET,
    "google.RefreshError": errno.EAGAIN,  # the machine's own service of tokens, for a moment
    "google.GoogleAuthError": errno.EACCES,
    # Orbax's own, by the time of day: a clock that jumped is enough.
    "builtins.TimeoutError": errno.ETIMEDOUT,
}
_STATUS = {401: errno.EACCES, 403: errno.EACCES, 408: errno.ETIMEDOUT, 429: errno.EAGAIN}


def system_error(error: BaseException) -> int | None:
    """The errno behind an error; None for what neither the system nor a service refused.

    TensorStore has it in the text of a ValueError. A service has none: what it refuses gets the
    errno of a file system that would refuse it for the same reason.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    for kind in type(error).__mro__:
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        if name == "gcsfs.HttpError":
            return _of_status(getattr(error, "code", None))
        if name in _RAISED:
            return _RAISED[name]
    if isinstance(error, OSError):
        return errno.EACCES if str(error).startswith("Forbidden") else None  # gcsfs's for 403
    return _of_tensorstore(str(error)) if isinstance(error, ValueError) else None


def _of_tensorstore(text: str) -> int | None:
    found = re.search(r"(os_error|http_response|curl)_code='(\d+)'", text)
    if found is None:
        return None
    if found[1] == "os_error":
        return int(found[2])
    return _of_status(found[2]) if found[1] == "http_response" else errno.ECONNRESET


def _of_status(status: int | str | None) -> int | None:
    """The errno for the status of an answer; None for a question that was wrong."""
    code = int(status or 0)
    return _STATUS.get(code, errno.EAGAIN if code >= 500 else None)


@contextmanager
def numbered() -> Iterator[None]:
    """Within it, what is refused is an OSError with an errno, whichever library says so."""
    try:
        yield
    except Exception as error:
        code = system_error(error)
        if code is None or (isinstance(error, OSError) and error.errno == code):
            raise
        raise OSError(code, str(error)) from error


def not_written(code: int, folder: Path) -> OSError:
    """The error for a checkpoint that the system refused to write."""
    return OSError(
        code,
        f"a checkpoint could not be written ({os.strerror(code)}). Checkpoints that were "
        "complete before are whole; mend the cause (as by freeing some space) and run the "
        "same command again",
        str(folder),
    )


def read_with_patience[T](
    read: Callable[[], T], folder: Path, *, sleep: Callable[[float], None] = time.sleep
) -> T:
    """`read()`, tried again after a pause where the file system may answer later.

    OSError after the last try, or at once for what does not pass; other errors are left alone.
    """
    for pause in (*PAUSES, None):
        try:
            return read()
        except Exception as error:  # raised again, unless a system or a service refused
            code = system_error(error)
            if code is None:
                raise
            if pause is None or code not in TRANSIENT:
                raise OSError(
                    code,
                    f"a checkpoint could not be read ({os.strerror(code)}); mend the cause and "
                    "run the same command again",
                    str(folder),
                ) from error
            sleep(pause)
    raise AssertionError("unreachable")
