"""What the system refuses: one clear error, and another try where the refusal may pass."""

import errno
import os
import re
import time
from collections.abc import Callable
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


def system_error(error: BaseException) -> int | None:
    """The errno behind an error, which TensorStore has in the text of a ValueError; else None."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return errno.ETIMEDOUT  # Orbax's own, by the time of day: a clock that jumped is enough
    if isinstance(error, OSError):
        return error.errno
    if not isinstance(error, ValueError):
        return None
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


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
        except (OSError, ValueError) as error:
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
