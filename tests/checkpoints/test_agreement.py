"""Two processes save together, and one of them has a bad disk."""

import errno
import os
import re
import socket
import subprocess
import sys

import pytest

from jaxllm.checkpoints import agreement
from jaxllm.checkpoints.agreement import gathered, together
from jaxllm.checkpoints.manifest import find_damage

from .states import break_file

PROGRAM = """
import os, shutil, sys, time, traceback
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

folder, address, rank, scenario = sys.argv[1:]
jax.distributed.initialize(address, 2, int(rank), coordinator_bind_address=address)

from jaxllm.checkpoints import CheckpointConfig, CheckpointStore, commit, writer
from jaxllm.storage import as_path

folder, rank = as_path(folder), int(rank)
sharding = NamedSharding(Mesh(jax.devices(), "d"), PartitionSpec("d"))
ones = jax.make_array_from_callback((8, 512), sharding, lambda index: np.ones((8, 512))[index])
said, paused = [], []


def open_store(on_error):
    config = CheckpointConfig(on_error=on_error, keep_latest=9, is_async=False)
    return CheckpointStore(folder, config, on_message=said.append, sleep=paused.append)


def save(store, step):
    store.save(step, params={"w": ones * step}, opt={"count": ones}, data={"row": step}, meta={})


def refuse_once(name, code, on_rank):
    real, left = getattr(commit, name), [int(rank == on_rank)]
    def refuse(*args):
        if left.pop() if left else False:
            raise OSError(code, os.strerror(code))
        return real(*args)
    for module in (commit, writer):
        if hasattr(module, name):
            setattr(module, name, refuse)


def away(on_rank):
    real = shutil.disk_usage
    def refuse(*args):
        if rank == on_rank:
            raise PermissionError(13, "not yours", str(folder))
        return real(*args) if args else None
    return refuse


def read_back(steps):
    with CheckpointStore(folder) as reader:
        assert reader.steps() == steps, reader.steps()
        for step in steps:
            like = {"w": jax.ShapeDtypeStruct((8, 512), ones.dtype, sharding=sharding)}
            restored = reader.restore(step, "params", like)["w"].addressable_data(0)
            assert np.unique(restored) == step, (np.unique(restored), step)
            assert reader.restore_json("data", step) == {"row": step}


def all_scenarios():
    began = time.monotonic()
    store = open_store("continue")
    save(store, 1)
    store.wait()
    for step, (name, on_rank) in enumerate(
        [("digest_own_files", 1), ("digest_own_files", 0), ("_seal", 0)], start=2
    ):
        refuse_once(name, 28, on_rank)  # no space left
        save(store, step)
    save(store, 5)
    store.wait()
    reason = "was not saved, training goes on: a checkpoint could not be written"
    first = [f"step {step} {reason} (No space left on device)" for step in (2, 3, 4)]
    assert said == (first if rank == 0 else []), said
    refuse_once("digest_own_files", 116, 1)  # a stale file handle passes
    save(store, 6)
    store.roll_back(5)
    assert paused == [1.0], paused
    save(store, 6)
    store.__exit__()
    read_back([1, 5, 6])
    said.clear()
    store = open_store("continue")
    for on_rank in (1, 0):
        disk_usage, shutil.disk_usage = shutil.disk_usage, away(on_rank)
        save(store, 7)
        shutil.disk_usage = disk_usage
    assert len(said) == 2 * (rank == 0), said
    save(store, 8)
    store.wait()
    store.roll_back(6)
    store._writer._make_manager = away(1)
    refuse_once("digest_own_files", 28, 0)
    try:
        save(store, 7)
    except OSError as error:
        assert "could not be opened again" in str(error), error
    else:
        raise AssertionError("went on without a manager")
    refuse_once("digest_own_files", 28, 1)
    store = open_store("stop")
    try:
        save(store, 7)
    except OSError as error:
        assert error.errno == 28, error
    else:
        raise AssertionError("saved")
    # A barrier that waits for a process that failed waits for twenty minutes.
    assert time.monotonic() - began < 300


def in_a_bucket():
    store = open_store("stop")
    save(store, 1)
    save(store, 5)
    refuse_once("digest_own_files", 116, 1)
    save(store, 6)
    store.wait()
    refuse_once("_seal", 116, 0)
    save(store, 7)
    store.roll_back(5)
    save(store, 6)
    store.__exit__()
    assert paused == [1.0, 1.0], paused
    read_back([1, 5, 6])


def fall_back():
    store = open_store("stop")
    assert store.steps() == [1, 5], store.steps()
    save(store, 6)
    store.__exit__()
    read_back([1, 5, 6])
    assert len(said) == (0 if rank else 2), said


try:
    globals()[scenario]()
except BaseException:
    traceback.print_exc()
    os._exit(1)  # a normal exit waits for the other
"""


def run_both(folder, scenario):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    variables = {**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), address, str(rank), scenario],
            env=variables,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)


@pytest.mark.slow
def test_two_processes_decide_alike(tmp_path):
    """Whichever fails in whatever part of a save, both say it is not saved, and both go on."""
    run_both(tmp_path, "all_scenarios")
    assert {path.name for path in tmp_path.iterdir()} == {"1", "5", "6"}
    assert find_damage(tmp_path / "6") is None
    assert not list(tmp_path.rglob("digests*"))
    own = [path for path in (tmp_path / "6").rglob("ocdbt.process_1/d/*") if path.is_file()]
    assert own, "the second process wrote arrays"
    break_file(own[0], "flipped")
    run_both(tmp_path, "fall_back")
    assert (tmp_path / "quarantine" / "6").is_dir()


@pytest.mark.slow
def test_two_processes_save_in_a_bucket(bucket):
    folder = "runs/one/checkpoints"
    run_both(f"{bucket.url}/{folder}", "in_a_bucket")
    files = bucket.files(folder)
    assert {name.partition("/")[0] for name in files} == {"1", "5", "6"}
    assert not [name for name in files if "digests" in name]
    own = [name for name in files if re.fullmatch(r"6/params/ocdbt\.process_1/d/.*", name)]
    assert own, "the second process wrote arrays"
    content = bytearray(files[own[0]])
    content[len(content) // 3] ^= 16
    bucket.put(f"{folder}/{own[0]}", bytes(content))
    run_both(f"{bucket.url}/{folder}", "fall_back")
    assert bucket.files(f"{folder}/quarantine/6")


def test_one_process_agrees_with_itself():
    assert gathered("a") == ["a"]
    assert together(lambda: 3) == 3
    refusal = OSError(errno.EIO, "away", "/folder")
    with pytest.raises(OSError, match="away") as raised:
        together(lambda: refuse(refusal))
    assert raised.value is refusal


def refuse(error):
    raise error


@pytest.mark.parametrize("own", [None, OSError(errno.ESTALE, "stale", "/here")])
def test_what_one_process_is_refused_all_are(monkeypatch, own):
    """As process 1 of three hears it, where process 0 was refused too or instead."""
    told = []

    def gathered_of_three(text):
        told.append(text)
        return [f"{errno.EDQUOT} quota (/there)", text, ""]

    monkeypatch.setattr(agreement, "gathered", gathered_of_three)
    monkeypatch.setattr(agreement.jax, "process_index", lambda: 1)
    with pytest.raises(OSError, match=r"process 0 says: quota \(/there\)") as raised:
        together(lambda: own and refuse(own))
    assert raised.value.errno == errno.EDQUOT
    assert told == ["" if own is None else f"{errno.ESTALE} stale (/here)"]
