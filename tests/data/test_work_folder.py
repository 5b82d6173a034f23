import fcntl
import threading
import time

import pytest

from jaxllm.data.work_folder import work_folder


def open_folder(work, *, keep=False):
    return work_folder(work, is_worth_keeping=lambda error: keep)


@pytest.mark.parametrize(
    ("error", "keep", "stays"),
    [
        (None, True, False),
        (ValueError, False, False),
        (ValueError, True, True),
        (OSError, False, True),
        (KeyboardInterrupt, False, True),
    ],
)
def test_what_becomes_of_the_folder(tmp_path, error, keep, stays):
    work = tmp_path / "work"
    try:
        with open_folder(work, keep=keep):
            (work / "half").touch()
            if error is not None:
                raise error
    except (ValueError, OSError, KeyboardInterrupt):
        pass
    assert (work / "half").exists() == stays


def test_who_waited_for_the_folder_has_it_alone(tmp_path):
    """Whoever had it before removed it, and the lock with it."""
    work, inside, done = tmp_path / "work", threading.Event(), threading.Event()

    def second():
        with open_folder(work):
            inside.set()
            done.wait(10)

    thread = threading.Thread(target=second)
    with open_folder(work):
        thread.start()
        time.sleep(0.2)  # until it waits for the lock
        assert not inside.is_set()
    assert inside.wait(10)
    with (work / "lock").open("w") as third, pytest.raises(BlockingIOError):
        fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
    done.set()
    thread.join()
    assert not work.exists()
