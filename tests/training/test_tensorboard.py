import subprocess
import sys

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxllm.training.tensorboard import EventFile, cut_back_events


def read(folder):
    """The folder as TensorBoard itself reads it; nothing sampled away."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def write(folder, steps):
    file = EventFile(folder)
    for step in steps:
        file.write({"step": step, "loss": 1 / (step + 1), "learning_rate": 0.1})
        if step % 5 == 0:
            file.text(step, sample=f"<b>sample</b> {step}", prompt="*prompt*")
    file.close()


def test_tensorboard_reads_scalars_and_texts(tmp_path):
    write(tmp_path, range(10))
    (path,) = tmp_path.iterdir()
    assert path.read_bytes().count(b"brain.Event:2") == 1
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"loss", "learning_rate"}
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == list(range(10))
    # The format holds float32.
    assert [event.value for event in scalars] == [float(np.float32(1 / (s + 1))) for s in range(10)]
    assert events.PluginTagToContent("text").keys() == {"sample"}
    text = events.Tensors("sample")[1].tensor_proto.string_val[0].decode()
    assert "    <b>sample</b> 5" in text
    assert "    *prompt*" in text


def test_no_step_appears_twice_after_a_resume(tmp_path):
    write(tmp_path, range(10))
    cut_back_events(tmp_path, 5)
    write(tmp_path, range(6, 12))
    events = read(tmp_path)
    assert [event.step for event in events.Scalars("loss")] == list(range(12))
    assert [event.step for event in events.Tensors("sample")] == [0, 5, 10]


@pytest.mark.parametrize("lost", [1, 13, 40])
def test_a_torn_last_record_is_dropped(tmp_path, lost):
    write(tmp_path, range(1, 3))
    (path,) = tmp_path.iterdir()
    complete = path.read_bytes()
    # Another record like the last one: the version event has 40 bytes, the other two are alike.
    record = complete[-(len(complete) - 40) // 2 :]
    path.write_bytes(complete + record[:-lost])
    cut_back_events(tmp_path, 9)
    assert path.read_bytes() == complete
    write(tmp_path, range(3, 6))
    assert [event.step for event in read(tmp_path).Scalars("loss")] == list(range(1, 6))


def test_starting_over_leaves_only_the_version(tmp_path):
    write(tmp_path, range(3))
    cut_back_events(tmp_path, -1)
    assert read(tmp_path).Tags()["scalars"] == []
    assert read(tmp_path).file_version == 2.0


def test_files_with_nothing_to_drop_are_left_alone(tmp_path):
    write(tmp_path, range(3))
    (path,) = tmp_path.iterdir()
    before = path.stat()
    cut_back_events(tmp_path, 2)
    assert path.stat() == before


def test_importing_the_module_imports_neither_tensorboard_nor_tensorflow():
    code = (
        "import sys, jaxllm.training.tensorboard\n"
        "print({'tensorboard', 'tensorflow'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
