"""Where a run folder is: on this machine, or in a bucket with a mirror of it here.

All that works with a run folder gets a local one. A run in a bucket has its small files in a
mirror, which the first process sends up; checkpoints are in the bucket alone. Before a checkpoint
is begun everything else is up there. So whatever kills the run, and whatever machine it goes on
with, the newest complete checkpoint finds all records of its steps; those after it are cut off.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import jax

from jaxllm.commands.lease import LEASE_FILE, RunLease
from jaxllm.commands.rollback import ROLLBACKS_FILE
from jaxllm.commands.run_folder import (
    CONFIG_FILE,
    DATASETS_FILE,
    METRICS_FILE,
    PUBLISHED_FILE,
    SUMMARY_FILE,
    TOKENIZER_FOLDER,
)
from jaxllm.hf.companions import GENERATION_FILE
from jaxllm.parallel import distributed
from jaxllm.storage import is_remote, text_of
from jaxllm.storage.mirror import Mirror, Sending, mirror_folder
from jaxllm.training.goodput_records import GOODPUT_FILE
from jaxllm.training.metrics import SKIPPED_FILE, TENSORBOARD_FOLDER

# What commands read of a run, besides its checkpoints. What else it writes goes up only.
_READ = (
    *(CONFIG_FILE, DATASETS_FILE, f"{TOKENIZER_FOLDER}/", PUBLISHED_FILE, GENERATION_FILE),
    *(METRICS_FILE, SKIPPED_FILE, ROLLBACKS_FILE, GOODPUT_FILE, SUMMARY_FILE),
)
_WRITTEN_ON = (*_READ, f"{TENSORBOARD_FOLDER}/", "wandb.mark", "trackio.mark")


def _mirror(url: str, folder: Path, names: tuple[str, ...]) -> Mirror:
    return Mirror(url, folder, names=names, first=CONFIG_FILE, last=(CONFIG_FILE, SUMMARY_FILE))


@contextmanager
def open_to_read(run: str | Path) -> Iterator[Path]:
    """A run folder as a local one, of which one in a bucket is a copy that goes away at the end.

    ValueError for gs:// that names no run or no bucket, OSError for a bucket out of reach.
    """
    if not is_remote(run):
        yield Path(run)
        return
    url = text_of(run)
    with TemporaryDirectory(prefix="jaxllm-") as folder:
        copy = Path(folder) / url.rpartition("/")[2]
        _mirror(url, copy, _READ).bring_down()
        if not (copy / CONFIG_FILE).is_file():
            raise ValueError(
                f"{url} is not a run folder: it has no {CONFIG_FILE} (jaxllm train makes one)"
            )
        yield copy


class RunPlace:
    """The folder that a process trains in. A context manager.

    Of a run in a bucket every process has a mirror of its own, which is locked on this machine
    while it is in use. ValueError if it is already, OSError for a bucket out of reach.
    """

    def __init__(self, run_dir: str, *, is_kept: bool = True) -> None:
        """is_kept: False where the run is only looked at; its mirror then goes away at the end."""
        self.origin = text_of(run_dir) if is_remote(run_dir) else None
        """The URL of a run in a bucket; None for one on this machine."""
        self.path = Path(run_dir)
        """The folder to work with."""
        self._is_kept = is_kept
        self._mirror: Mirror | None = None
        self._send: Callable[[], object] = _nothing
        self._stack = ExitStack()

    def __enter__(self) -> "RunPlace":
        if self.origin is None:
            return self
        with ExitStack() as stack:
            if self._is_kept:
                self.path = mirror_folder(self.origin, jax.process_index())
                stack.enter_context(RunLease(self.path, name=self.origin))
            else:
                folder = stack.enter_context(TemporaryDirectory(prefix="jaxllm-"))
                self.path = Path(folder) / self.origin.rpartition("/")[2]
            self._mirror = _mirror(self.origin, self.path, _WRITTEN_ON)
            self.refresh()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def refresh(self) -> None:
        """Bring the mirror down once more. ValueError for a folder of other things than a run."""
        if self._mirror is None:
            return
        others = [name for name in self._mirror.bring_down() if name != LEASE_FILE]
        if others and not (self.path / CONFIG_FILE).is_file():
            raise ValueError(
                f"run_dir {self.origin} is a folder with other things in it, as {others[0]}, and "
                f"no {CONFIG_FILE}; give another run_dir"
            )

    def share(self) -> None:
        """What the first process wrote is in the mirrors of all. All processes call it together."""
        if self._mirror is None:
            return
        if distributed.is_first():
            self._mirror.send()
        distributed.barrier("run folder is sent")
        if not distributed.is_first():
            self.refresh()

    def sending(
        self, *, must_send: bool, say: Callable[[str], None]
    ) -> AbstractContextManager[object]:
        """Within it the mirror goes up from time to time, and at its end; on the first process.

        must_send: whether `send` raises what goes wrong; what goes wrong at the end is raised in
        any case. say: shows one line.
        """
        if self._mirror is None:
            return nullcontext()
        sending = Sending(self._mirror, say=say)
        self._send = self._mirror.send if must_send else sending.try_to_send
        return sending

    def send(self) -> None:
        """Before a checkpoint is begun: have everything else in the bucket; on the first process.

        OSError that names what could not be sent.
        """
        self._send()


def _nothing() -> None:
    """What there is to send of a run on this machine."""
