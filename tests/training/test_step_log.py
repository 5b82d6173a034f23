"""The device is never kept waiting: one read a step, of a step that is already behind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import global_batch
from jaxllm.training.step_log import StepLog


class Clock:
    """Throughput without a clock."""

    def read(self, num_steps):
        return {"num_steps": num_steps}


class Records(list):
    write = list.append


def make_log(records, *, start=0, every=1, shown=None):
    on_record = (lambda record: None) if shown is None else shown.append
    return StepLog(records, Clock(), start=start, every=every, on_record=on_record)


class OnDevice:
    """A figure on a device that notes when it is copied and when it is read."""

    def __init__(self, events, step):
        self.events, self.step = events, step

    def copy_to_host_async(self):
        self.events.append(f"copy {self.step}")

    def __float__(self):
        self.events.append(f"read {self.step}")
        return float(self.step)


def test_a_step_is_read_after_the_next_one_is_dispatched(monkeypatch):
    events, records = [], Records()
    monkeypatch.setattr(jax, "device_get", lambda tree: tree)
    log = make_log(records)
    for step in (1, 2, 3):
        events.append(f"dispatch {step}")
        log.push(step, {"loss": OnDevice(events, step)})
    log.flush()
    assert events == [
        *("dispatch 1", "copy 1"),
        *("dispatch 2", "copy 2", "read 1"),
        *("dispatch 3", "copy 3", "read 2"),
        "read 3",
    ]
    assert [(record["step"], record["loss"]) for record in records] == [(1, 1), (2, 2), (3, 3)]


def test_nothing_waits_for_an_unfinished_step(monkeypatch):
    """A device that never finishes the newest step does not stop the loop from dispatching."""
    records = Records()

    def get(tree):
        assert tree["loss"].step < newest, "the loop waited for the step it had just dispatched"
        return tree

    monkeypatch.setattr(jax, "device_get", get)
    log = make_log(records)
    for newest in range(1, 5):
        log.push(newest, {"loss": OnDevice([], newest)})
    assert [record["step"] for record in records] == [1, 2, 3]


def test_records_at_their_interval(monkeypatch):
    events, records, shown = [], Records(), []
    monkeypatch.setattr(jax, "device_get", lambda tree: tree)
    log = make_log(records, start=3, every=4, shown=shown)
    for step in range(4, 14):
        log.push(step, {"loss": OnDevice(events, step)})
    log.flush()
    log.flush()  # nothing is held, nothing is written twice
    assert [(record["step"], record["num_steps"]) for record in records] == [
        (4, 1),
        (8, 4),
        (12, 4),
    ]
    assert shown == records
    assert events == ["copy 4", "copy 8", "read 4", "copy 12", "read 8", "read 12"]


def test_figures_keep_every_digit():
    records = Records()
    value = np.float32(0.1) + np.float32(2**-24)
    log = make_log(records)
    log.push(1, {"loss": jnp.float32(value)})
    log.flush()
    assert records[0]["loss"] == float(value)
    assert type(records[0]["loss"]) is float


@pytest.fixture
def reads(monkeypatch):
    """The arrays whose values came to the host: the transfer guard misses them on a CPU."""
    array_type, reads = type(jnp.ones(())), []
    plain = array_type._value.fget
    monkeypatch.setattr(
        array_type, "_value", property(lambda array: reads.append(array) or plain(array))
    )
    return reads


def test_reading_is_noticed(reads):
    float(jnp.ones(()) + 1)
    assert len(reads) == 1


def test_training_reads_the_metrics_of_each_step_and_nothing_else(reads, monkeypatch):
    gets, plain = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: gets.append(tree) or plain(tree))
    layout, records = ParallelConfig(layout="data").build(), Records()

    @jax.jit
    def train_step(state, batch):
        tokens = batch["tokens"].sum()
        return state + tokens, {"loss": tokens / 7, "gradient_norm": state * 1.5}

    state = jax.device_put(jnp.int32(0), layout.sharding())
    log = make_log(records)
    reads.clear()
    with jax.transfer_guard("disallow"):
        for step in range(1, 5):
            batch = global_batch(layout, tiny.batch(step), rows=tiny.ROWS)
            state, metrics = train_step(state, batch)
            log.push(step, metrics)
            assert len(gets) == step - 1
        log.flush()
    assert len(gets) == len(records) == 4
    assert len(reads) == 4 * len(metrics)
    assert all(array.ndim == 0 for array in reads)


def test_a_step_that_is_finished_is_written_before_the_next_is_dispatched():
    """As on CPU, where the next step would run, and be timed, inside its dispatch."""
    records = Records()
    log = make_log(records)
    log.push(1, {"loss": jnp.float32(1.0).block_until_ready()})
    assert records == []
    log.poll()
    assert [record["step"] for record in records] == [1]
    log.poll()
    assert len(records) == 1


def test_steps_since_the_last_record_are_counted_when_the_loop_pauses():
    class Counting(Clock):
        counted, restarted = 0, 0

        def read(self, num_steps):
            self.counted += num_steps
            return super().read(num_steps)

        def restart(self):
            self.restarted += 1

    clock, records = Counting(), Records()
    log = StepLog(records, clock, start=0, every=4, on_record=lambda record: None)
    for step in range(1, 7):
        log.push(step, {"loss": jnp.float32(step)})
    log.pause(6, {"loss": jnp.float32(6)})
    log.resume()
    assert (clock.counted, clock.restarted) == (6, 1)
    for step in (7, 8, 9):
        log.push(step, {"loss": jnp.float32(step)})
    log.pause(9, {"loss": jnp.float32(9)})
    assert clock.counted == 9
    assert [(record["step"], record["num_steps"]) for record in records] == [(4, 4), (8, 2)]


class Unfinished:
    """A figure whose step is finished when the test says so."""

    def __init__(self, done):
        self.done = done

    def copy_to_host_async(self):
        pass

    def is_ready(self):
        return self.done["done"]

    def __float__(self):
        return 0.0


def test_finished_steps_are_told_when_the_loop_looks_and_no_earlier(monkeypatch):
    monkeypatch.setattr(jax, "device_get", lambda tree: tree)
    told, figures = [], [{"done": False} for _ in range(6)]
    log = StepLog(
        Records(),
        Clock(),
        start=0,
        every=4,
        on_record=lambda record: None,
        on_finished=told.append,
    )
    for step in (1, 2, 3):
        log.push(step, {"loss": Unfinished(figures[step - 1])})
    log.poll()
    assert (told, log.is_device_busy()) == ([], True)
    figures[0]["done"] = figures[1]["done"] = True
    log.poll()
    assert (told, log.is_device_busy()) == ([2], True)
    log.push(4, {"loss": Unfinished(figures[3])})
    log.flush()  # waits for step 4, and so for 3
    assert told == [2, 4]
    figures[3]["done"] = True
    assert not log.is_device_busy()
    log.poll()
    assert told == [2, 4]


def test_a_record_has_the_figures_of_who_else_counts():
    records = Records()
    log = StepLog(
        records,
        Clock(),
        start=0,
        every=1,
        on_record=lambda record: None,
        figures=lambda: {"goodput": 0.75},
    )
    log.push(1, {"loss": jnp.float32(1)})
    log.flush()
    assert records[0]["goodput"] == 0.75
