import errno
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest

from jaxllm.training import logfile
from jaxllm.training.metrics import MetricsConfig, cut_back, last_step

from .disks import FullDisk


def read(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def write(run_dir, records, **settings):
    with MetricsConfig(**({"tensorboard": False} | settings)).build(run_dir, {}) as writer:
        for record in records:
            writer.write(record)


def test_floats_read_back_equal(tmp_path):
    values = [0.1 + 0.2, 1e-300, 1 / 3, 5e-324, -0.0, np.float32(0.1), np.array(2.7, np.float32)]
    write(tmp_path, [{"step": i, "loss": value} for i, value in enumerate(values)])
    for record, value in zip(read(tmp_path), values, strict=True):
        assert np.float64(record["loss"]).tobytes() == np.float64(value).tobytes()


def test_integers_stay_integers(tmp_path):
    write(tmp_path, [{"step": np.int64(3), "tokens": 2**60 + 1}])
    assert read(tmp_path) == [{"step": 3, "tokens": 2**60 + 1}]


def test_values_that_json_lacks_stay_valid_and_readable(tmp_path):
    write(tmp_path, [{"step": 1, "a": math.nan, "b": math.inf, "c": np.float32(-math.inf)}])

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert math.isnan(float(record["a"]))
    assert float(record["b"]) == math.inf
    assert float(record["c"]) == -math.inf


def test_a_record_is_in_the_file_before_the_next_one(tmp_path):
    with MetricsConfig(tensorboard=False).build(tmp_path, {}) as writer:
        for step in range(3):
            writer.write({"step": step, "loss": 1.0})
            assert [record["step"] for record in read(tmp_path)] == list(range(step + 1))


def test_samples_are_records_of_their_own(tmp_path):
    with MetricsConfig(tensorboard=False).build(tmp_path, {}) as writer:
        writer.text(7, sample="line\nline \u2028\u00e9", prompt="p")
    assert read(tmp_path) == [{"step": 7, "prompt": "p", "sample": "line\nline \u2028\u00e9"}]


def test_a_run_cut_back_and_gone_on_with_equals_one_never_stopped(tmp_path):
    records = [{"step": step, "loss": 1 / step} for step in range(1, 11)]
    write(tmp_path / "whole", records)
    write(tmp_path / "cut", records[:8])
    cut_back(tmp_path / "cut", 5)
    write(tmp_path / "cut", records[5:])
    assert read(tmp_path / "cut") == read(tmp_path / "whole")


def test_cutting_back_drops_a_torn_last_line_and_every_kind_of_later_record(tmp_path):
    write(tmp_path, [{"step": 4, "loss": 1.0}, {"step": 4, "validation_loss": 2.0}])
    kept = (tmp_path / "metrics.jsonl").read_bytes()
    with MetricsConfig(tensorboard=False).build(tmp_path, {}) as writer:
        writer.write({"step": 5, "validation_loss": 2.0})
        writer.text(5, sample="s")
    for torn in (b'{"step": 4, "lo', b'{"step": 4, "loss": 1.0}', b"\0\0\0\0"):
        with open(tmp_path / "metrics.jsonl", "ab") as file:
            file.write(torn)
        cut_back(tmp_path, 4)
        assert (tmp_path / "metrics.jsonl").read_bytes() == kept


def test_starting_over_leaves_no_record(tmp_path):
    write(tmp_path, [{"step": 0, "loss": 1.0}])
    cut_back(tmp_path, -1)
    assert read(tmp_path) == []


def test_cutting_back_changes_nothing_where_nothing_is_later(tmp_path):
    cut_back(tmp_path, 3)  # no file yet
    write(tmp_path, [{"step": 3, "loss": 1.0}])
    before = os.stat(tmp_path / "metrics.jsonl")
    cut_back(tmp_path, 3)
    assert os.stat(tmp_path / "metrics.jsonl") == before


def test_a_damaged_line_is_named_and_the_file_kept(tmp_path):
    content = b'{"step": 1}\n{"loss": 2}\n{"step": 3}\n'
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not a JSON object with a step"):
        cut_back(tmp_path, 1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == content


def test_a_read_only_file_system_is_one_clear_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(logfile, "open", refuse, raising=False)
    with pytest.raises(OSError, match=r"read-only.*metrics\.jsonl"):
        MetricsConfig(tensorboard=False, on_error="continue").build(tmp_path, {})


@pytest.fixture
def rationed(monkeypatch):
    """Files opened to grow have room together for `rationed.room` bytes."""
    disk = SimpleNamespace(room=10**9)

    def rationed(*args, **kwargs):
        return Rationed(open(*args, **kwargs))

    class Rationed(FullDisk):
        room = property(lambda self: disk.room, lambda self, room: setattr(disk, "room", room))

        def __init__(self, file):
            self.file = file

    monkeypatch.setattr(logfile, "open", rationed, raising=False)
    return disk


def run_into_a_full_disk(run_dir, disk, *, on_error, said):
    """Six records; the disk is full for the third and the fourth, half a record aside."""
    settings = MetricsConfig(on_error=on_error)
    with settings.build(run_dir, {}, say=said.append) as writer:
        for step in range(1, 7):
            if step == 3:
                disk.room = 11
            if step == 5:
                disk.room = 10**9
            writer.write({"step": step, "loss": 1 / step})


def test_a_run_may_go_on_without_metrics_and_says_so_once(tmp_path, rationed):
    said = []
    run_into_a_full_disk(tmp_path, rationed, on_error="continue", said=said)
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 5, 6]
    assert [event.step for event in tensorboard_losses(tmp_path)] == [1, 2, 5, 6]
    full, again = said
    assert full.startswith("metrics are not written")
    assert "No space left on device" in full
    assert str(tmp_path / "metrics.jsonl") in full
    assert again == "metrics are written again; 2 records are missing"


def test_a_run_stops_where_it_is_to_stop(tmp_path, rationed):
    with pytest.raises(OSError, match=r"The disk is full.*metrics\.jsonl"):
        run_into_a_full_disk(tmp_path, rationed, on_error="stop", said=[])
    assert [record["step"] for record in read(tmp_path)] == [1, 2]


def test_records_missing_at_the_end_are_said(tmp_path, rationed):
    said = []
    settings = MetricsConfig(on_error="continue")
    with settings.build(tmp_path, {}, say=said.append) as writer:
        rationed.room = 0
        for step in range(3):
            writer.write({"step": step})
            writer.text(step, sample="s")
    assert said[1:] == ["metrics: 6 records up to the end are missing"]
    assert read(tmp_path) == []


def tensorboard_losses(run_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return events.Scalars("loss")


def test_the_last_step_is_that_of_the_last_whole_record(tmp_path):
    assert last_step(tmp_path) == 0
    write(tmp_path, [{"step": step, "loss": 1.0} for step in range(1, 20_001)])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 20001, "lo')
    assert last_step(tmp_path) == 20_000


def test_every_sink_is_closed_even_if_one_fails(tmp_path):
    from jaxllm.training.metrics import MetricsWriter

    class Sink:
        def __init__(self, fails):
            self.fails, self.closed = fails, False

        def close(self):
            self.closed = True
            if self.fails:
                raise RuntimeError("broken")

    sinks = [Sink(False), Sink(True), Sink(False)]
    with pytest.raises(RuntimeError, match="broken"):
        MetricsWriter(sinks).close()
    assert all(sink.closed for sink in sinks)
