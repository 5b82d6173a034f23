import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxllm.commands import lease, lease_beats, run_folder
from jaxllm.commands.lease import LEASE_FILE, Owner, RunLease
from jaxllm.config import load_config
from jaxllm.config_files import find_config

HOLDER = """
import os, sys, time
from pathlib import Path
from jaxllm.commands.lease import RunLease
with RunLease(Path(sys.argv[1])):
    {inside}
    print("holds", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def hold():
    """Starts a process that has the lease of a folder, and waits until it has it."""
    started = []

    def start(run_dir, *, seconds=600.0, inside="pass"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(inside=inside), str(run_dir), str(seconds)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "holds\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_run_on_a_folder_is_refused_and_told_by_whom(tmp_path, hold):
    run_dir = tmp_path / "new" / "run"
    holder = hold(run_dir)
    with pytest.raises(ValueError) as refused, RunLease(run_dir, patience=0.2):
        pass
    words = str(refused.value)
    assert words.startswith(f"run_dir {run_dir} is in use by process {holder.pid} on host ")
    assert " since 2" in words
    assert "give another run_dir" in words


def test_a_killed_run_leaves_its_folder_free(tmp_path, hold):
    holder = hold(tmp_path)
    holder.kill()
    holder.wait()
    with RunLease(tmp_path, patience=0.0):
        assert lease.read_owner(tmp_path / LEASE_FILE).process == os.getpid()
    assert lease.read_owner(tmp_path / LEASE_FILE) is None
    with RunLease(tmp_path, patience=0.0):
        pass


def test_a_run_that_is_about_to_end_is_waited_for(tmp_path, hold, capsys):
    holder = hold(tmp_path, seconds=0.5)
    with RunLease(tmp_path, patience=60.0):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"waiting for process {holder.pid} on host ")


def test_a_forked_worker_does_not_keep_the_lease_of_its_run(tmp_path):
    """It would share the lock, and a worker may outlive a run that is killed."""
    worker = "(pid := os.fork()) or time.sleep(600); print(pid)"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(inside=worker), str(tmp_path), "600"],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        os.kill(pid, 0)  # it is alive
        with RunLease(tmp_path, patience=5.0):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        process.communicate()


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    flock, path = lease.fcntl.flock, tmp_path / LEASE_FILE
    removed = []

    def remove_once(file, operation):
        if not removed:
            removed.append(path.unlink())
        return flock(file, operation)

    monkeypatch.setattr(lease.fcntl, "flock", remove_once)
    with RunLease(tmp_path, patience=5.0):
        assert lease.read_owner(path).process == os.getpid()
        with pytest.raises(ValueError, match="is in use"), RunLease(tmp_path, patience=0.0):
            pass


def test_a_folder_with_nothing_but_a_lease_is_new(tmp_path):
    run_dir = tmp_path / "run"
    config = load_config(find_config("test_tiny"), [f"run_dir={run_dir}"])
    with RunLease(run_dir):
        run_folder.check_config(run_dir, config)
    run_folder.check_config(run_dir, config)
    (run_dir / "thesis.txt").touch()
    with pytest.raises(ValueError, match="other things"):
        run_folder.check_config(run_dir, config)


def lock_of_another_machine(run_dir, hold, machine, *, seconds=600.0):
    """A process has the lock; the file says that it is of another machine, as after its death."""
    hold(run_dir, seconds=seconds)
    (run_dir / LEASE_FILE).write_bytes(Owner.here()._replace(machine=machine).write())


def test_a_lock_of_another_machine_is_waited_for_beyond_the_patience(tmp_path, hold, monkeypatch):
    """Its server frees the lock of a dead host late."""
    lock_of_another_machine(tmp_path, hold, "another-boot pid:[1]", seconds=0.5)
    with RunLease(tmp_path, patience=0.0):
        pass
    monkeypatch.setattr(lease, "ELSEWHERE", 0.2)
    lock_of_another_machine(tmp_path, hold, "another-boot pid:[1]")
    with pytest.raises(ValueError, match="is in use by"), RunLease(tmp_path, patience=0.0):
        pass


def test_another_container_of_this_machine_is_not_elsewhere(tmp_path, hold, monkeypatch):
    boot = Owner.here().machine.split(" ")[0]
    monkeypatch.setattr(lease, "ELSEWHERE", 600.0)
    lock_of_another_machine(tmp_path, hold, f"{boot} pid:[1]")
    with pytest.raises(ValueError, match="is in use by"), RunLease(tmp_path, patience=0.0):
        pass
    assert Owner.here()._replace(machine="", host="another").is_elsewhere


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, where signs of life come quickly."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    for name, seconds in (("BEAT", 0.05), ("VALID", 1.0), ("SETTLE", 0.02)):
        monkeypatch.setattr(lease_beats, name, seconds)


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP", "ENOTSUP", "ENOSYS"])
def test_without_locks_signs_of_life_keep_the_second_out(tmp_path, monkeypatch, no_locks, number):
    code = getattr(errno, number)

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    with RunLease(tmp_path):
        with pytest.raises(ValueError, match=f"is in use by process {os.getpid()} on host"):
            RunLease(tmp_path, patience=0.0).__enter__()
        assert threading.active_count() > 1
    with RunLease(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [LEASE_FILE]


def test_without_locks_a_run_that_shows_no_life_is_waited_for_beyond_the_patience(
    tmp_path, no_locks
):
    """Nobody can know at once that it was killed, on another host."""
    dead = Owner.here()._replace(machine="another")
    (tmp_path / LEASE_FILE).write_bytes(dead.write(beat=5))
    with RunLease(tmp_path, patience=0.0):
        assert lease.read_owner(tmp_path / LEASE_FILE).key != dead.key


def test_what_else_the_file_system_refuses_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(lease.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output error"), RunLease(tmp_path):
        pass
