import errno
import os

import pytest

from jaxllm.training.logfile import LogFile, replace_file

from .disks import FullDisk


def test_a_full_disk_names_the_file_and_leaves_no_half_record(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = LogFile(path)
    log.append(b"first\n")
    log._file = FullDisk(log._file, 4)
    with pytest.raises(OSError, match="disk is full") as caught:
        log.append(b"second\n")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    log.close()
    assert path.read_bytes() == b"first\n"


class Flaky:
    """A raw file whose writes fail with each of `errors` in turn, after half of what they got."""

    def __init__(self, file, errors):
        self.file, self.errors = file, errors

    def write(self, data):
        if not self.errors:
            return self.file.write(data)
        if len(data) > 1:
            return self.file.write(data[: len(data) // 2])
        raise OSError(self.errors.pop(0), "now and then")

    def __getattr__(self, name):
        return getattr(self.file, name)


PASSING = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR]


@pytest.mark.parametrize("number", PASSING)
def test_an_error_that_passes_is_tried_again(tmp_path, number):
    pauses = []
    log = LogFile(tmp_path / "log", sleep=pauses.append)
    log.append(b"first\n")
    log._file = Flaky(log._file, [number, number])
    log.append(b"second\n")
    log.append(b"third\n")
    assert (tmp_path / "log").read_bytes() == b"first\nsecond\nthird\n"
    # A stale handle is opened anew, which the flaky file does not survive.
    assert pauses == [0.1, 0.5][: 1 if number == errno.ESTALE else 2]


@pytest.mark.parametrize(("number", "tries"), [(errno.EIO, 3), (errno.ENOSPC, 1), (errno.EPERM, 1)])
def test_an_error_that_stays_is_raised_after_a_bounded_number_of_tries(tmp_path, number, tries):
    pauses = []
    log = LogFile(tmp_path / "log", sleep=pauses.append)
    log._file = flaky = Flaky(log._file, [number] * 10)
    with pytest.raises(OSError, match="log") as caught:
        log.append(b"record\n")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "log"))
    assert len(pauses) == tries - 1
    assert len(flaky.errors) == 10 - tries
    with pytest.raises(OSError, match="log"):  # who goes on is not held up again
        log.append(b"record\n")
    assert len(flaky.errors) == 10 - tries - 1
    flaky.errors.clear()
    log.append(b"record\n")
    assert (tmp_path / "log").read_bytes() == b"record\n"


def test_a_part_that_could_not_be_taken_back_is_gone_before_the_next_record(tmp_path):
    log = LogFile(tmp_path / "log", sleep=lambda seconds: None)
    log.append(b"first\n")
    log._file = flaky = Flaky(log._file, [errno.ENOSPC])

    def truncate(size):
        raise OSError(errno.EIO, "not now")

    flaky.truncate = truncate
    with pytest.raises(OSError, match="disk is full"):
        log.append(b"second\n")
    assert (tmp_path / "log").read_bytes() != b"first\n"
    del flaky.truncate
    log.append(b"third\n")
    assert (tmp_path / "log").read_bytes() == b"first\nthird\n"


def test_a_file_that_would_block_is_not_written_for_ever(tmp_path):
    class Blocking(Flaky):
        def write(self, data):
            return None

    log = LogFile(tmp_path / "log", sleep=lambda seconds: None)
    log._file = Blocking(log._file, [])
    with pytest.raises(BlockingIOError, match="tried again"):
        log.append(b"record\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_while_replacing_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"old")
    (tmp_path / ".metrics.jsonl.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match="disk is full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
