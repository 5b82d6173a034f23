"""Training in a Jupyter kernel: interrupted, gone on with, and done a second time."""

import time
from pathlib import Path
from queue import Empty

import pytest
from commands import runs

pytestmark = pytest.mark.notebooks

CONFIG = runs.TEXT_CONFIG.replace("profile: {{start: 3, steps: 1}}\n", "")


class Kernel:
    """A kernel, and what its cells show."""

    def __init__(self, client, manager):
        self._client, self._manager = client, manager

    def run(self, code, *, interrupted_once=None):
        """All messages of a cell. interrupted_once: a path; when it is there, interrupt."""
        sent = self._client.execute(code)
        messages, deadline = [], time.monotonic() + 240
        while time.monotonic() < deadline:
            if interrupted_once is not None and interrupted_once.exists():
                self._manager.interrupt_kernel()
                interrupted_once = None
            try:
                message = self._client.get_iopub_msg(timeout=0.05)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != sent:
                continue
            messages.append(message)
            if message["content"].get("execution_state") == "idle":
                return messages
        raise AssertionError(f"no end of {code}: {messages[-3:]}")


def texts(messages):
    """Everything that a cell showed as text, the latest state of displays included."""
    found = []
    for message in messages:
        content = message["content"]
        found += [content.get("text", ""), content.get("data", {}).get("text/plain", "")]
        found += content.get("traceback", [])
    return "\n".join(filter(None, found))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    from jupyter_client.manager import start_new_kernel

    folder = tmp_path_factory.mktemp("kernel")
    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(8):
            (folder / name / f"{number}.txt").write_text(f"the war of {name} {number} " * 30)
    (folder / "text.yaml").write_text(CONFIG.format(folder=folder))
    manager, client = start_new_kernel(
        kernel_name="python3", cwd=str(folder), env=runs.environment(devices=1)
    )
    kernel = Kernel(client, manager)
    kernel.folder = folder
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


STEPS = 120
CELL = f'import jaxllm; run = jaxllm.train("text.yaml", {{"training.steps": {STEPS}}}); run'


def test_an_interrupted_cell_gives_control_back_and_goes_on_when_it_is_run_again(kernel):
    first = kernel.run(CELL, interrupted_once=kernel.folder / "run" / "checkpoints" / "4")
    (error,) = [message["content"] for message in first if message["msg_type"] == "error"]
    assert error["ename"] == "Interrupted"
    assert len(error["traceback"]) == 1  # a sentence
    assert "interrupted after step" in texts(first)
    assert "text/html" in shown(first)  # the bar

    saved = runs.checkpoints(kernel.folder / "run")[-1]
    assert 4 <= saved < STEPS
    second = kernel.run(CELL)
    assert f"resuming at step {saved}" in texts(second)
    assert f"steps {STEPS} of {STEPS}" in texts(second)
    assert "error" not in {message["msg_type"] for message in second}


def test_a_kernel_trains_again_and_draws(kernel):
    again = kernel.run(
        'other = jaxllm.train("text.yaml", {"run_dir": "second", "training.steps": 6}); '
        "other.plot(beside=[run])"
    )
    assert "steps" in texts(again)
    assert "image/svg+xml" in shown(again)
    written = kernel.run('other.generate("the ", max_tokens=4)')
    assert "text/html" in shown(written)
    assert not [message for message in written if message["msg_type"] == "stream"]
    assert Path(kernel.folder / "second" / "summary.json").is_file()


def shown(messages):
    """The kinds of all that was displayed."""
    return {kind for message in messages for kind in message["content"].get("data", {})}
