"""Saves in the background, one at a time, and what is done about those that fail."""

import errno
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxllm.checkpoints.agreement import AnotherFailed, SaveBarriers, gathered, together
from jaxllm.checkpoints.commit import digest_own_files
from jaxllm.checkpoints.faults import (
    PAUSES,
    TRANSIENT,
    not_written,
    read_with_patience,
    system_error,
)
from jaxllm.checkpoints.folders import folder_of
from jaxllm.checkpoints.manager import writing_manager
from jaxllm.checkpoints.quarantine import discard
from jaxllm.checkpoints.snapshot import Snapshot


class Flight(NamedTuple):
    """A save that is under way."""

    step: int
    arrays: Any
    data: Mapping[str, Any]
    meta: Mapping[str, Any]
    validation_loss: float | None

    def can_be_repeated(self) -> bool:
        """Whether the values are still there: on accelerators the next step takes the memory."""
        return not any(leaf.is_deleted() for leaf in jax.tree.leaves(self.arrays))


class CheckpointWriter:
    """Writes checkpoints with Orbax. All processes of a run call every method together."""

    def __init__(
        self,
        folder: Path,
        *,
        keep_latest: int,
        keep_every: int | None,
        keep_best: int,
        goes_on: bool,
        say: Callable[[str], None],
        sleep: Callable[[float], None],
    ):
        """goes_on: whether training goes on after a save that the system refused."""
        self._folder = folder
        self._goes_on = goes_on
        self._say = say
        self._sleep = sleep
        self._snapshot = Snapshot()
        self._flight: Flight | None = None
        self._refusal: OSError | None = None  # of the newest save, which is not on disk
        self._has_failed = False  # whether any save did
        self._num_lost = 0  # saves in a row that are not on disk
        self._may_pass = False  # the fault of the newest, which could not be tried again
        self._barriers = SaveBarriers(self._when_written)
        self._make_manager = partial(
            writing_manager,
            folder,
            keep_latest=keep_latest,
            keep_every=keep_every,
            keep_best=keep_best,
            barriers=self._barriers,
        )
        self.manager = self._make_manager()

    def save(
        self,
        step: int,
        *,
        arrays: Any,
        data: Mapping[str, Any],
        meta: Mapping[str, Any],
        validation_loss: float | None,
    ) -> None:
        """Begin to save arrays (params, opt); the save before is finished first."""
        # One save at a time: the copy of the one before is about to be overwritten.
        self.settle_or_tell()
        try:
            self._check_space(arrays)
        except OSError as error:
            self._may_pass = False
            self._tell(step, error)
            return
        arrays = self._snapshot.take(arrays)
        self._flight = Flight(step, arrays, data, meta, validation_loss)
        problem = self._start(self._flight)
        if problem is not None:
            self._settle_after(problem)

    def settle(self) -> None:
        """Wait until the last save is on disk; OSError if it is not."""
        self._finish(None)
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            raise refusal

    def settle_or_tell(self) -> None:
        """Wait until the last save is on disk; OSError unless training goes on without it."""
        self._settle_after(None)

    def settle_for_good(self) -> None:
        """The same, and a save that failed is of no account any more."""
        self.settle_or_tell()
        self._refusal = None

    def close(self) -> None:
        """Finish the save in flight; OSError if the last save is not on disk."""
        try:
            self.settle()
        finally:
            self._end()

    def close_after_error(self) -> None:
        """Finish the save in flight; OSError only if the run would have ended by it anyway."""
        try:
            self.settle_or_tell()
        finally:
            self._end()

    def _end(self) -> None:
        self.manager.close()
        if self._has_failed and jax.process_index() == 0:
            # Writes of a failed save may have gone on for a while.
            folder_of(self._folder).remove_incomplete()

    def _settle_after(self, problem: Exception | None) -> None:
        step = None if self._flight is None else self._flight.step
        try:
            self._finish(problem)
        except OSError as error:
            if step is None or error.errno is None:
                raise
            self._tell(step, error)

    def _tell(self, step: int, error: OSError) -> None:
        """Say that a step was not saved; raises `error` where the run ends by it.

        Where a passing fault was noticed too late to save that step again, the next save is the
        next try, so the run goes on unless too many failed in a row.
        """
        next_is_another_try = self._may_pass and self._num_lost <= len(PAUSES)
        if not (self._goes_on or next_is_another_try):
            raise error
        self._refusal = error
        reason = str(error.strerror).split(". ")[0]  # without what to do about an end
        self._say(f"step {step} was not saved, training goes on: {reason}")

    def _finish(self, problem: Exception | None) -> None:
        """See the save in flight through, with further tries where the fault may pass.

        problem: what its start came to already.
        """
        for pause in (*PAUSES, None):
            flight = self._flight
            if flight is None:
                return
            problem = problem or self._outcome()
            code, can_be_repeated = self._agree(flight, problem)
            if code == 0:
                self._flight, self._refusal, self._num_lost = None, None, 0
                return
            self._flight = None
            self._clean_up_after(flight.step)
            if pause is None or code not in TRANSIENT or not can_be_repeated:
                self._refusal = None
                self._num_lost += 1
                self._may_pass = code in TRANSIENT and not can_be_repeated
                raise not_written(code, self._folder) from problem
            self._sleep(pause)
            self._flight = flight
            problem = self._start(flight)

    def _clean_up_after(self, step: int) -> None:
        """Remove what a failed save left. OSError without a number, on every process, where that
        is refused: then no later save can begin, and the run ends whatever it does about others.
        """
        self._has_failed = True
        _close(self.manager)
        try:
            if jax.process_index() == 0:
                folder_of(self._folder).remove_incomplete(step)
            # A network file system can rename and yet say that it did not.
            discard(self._folder, [step])
            # The manager has forgotten the checkpoints that this save would have replaced.
            self.manager = together(
                lambda: read_with_patience(self._make_manager, self._folder, sleep=self._sleep)
            )
        except OSError as error:
            raise OSError(
                f"{self._folder}: after a save that failed, the checkpoints could not be opened "
                f"again: {error}. See to the file system and run the same command again"
            ) from error

    def _start(self, flight: Flight) -> Exception | None:
        """Hand a save to Orbax; what the system refused, if it did so at once."""
        import orbax.checkpoint as ocp

        params, opt = flight.arrays
        items = ocp.args.Composite(
            params=ocp.args.PyTreeSave(params),
            opt=ocp.args.PyTreeSave(opt),
            data=ocp.args.JsonSave(dict(flight.data)),
            meta=ocp.args.JsonSave(dict(flight.meta)),
        )
        loss = flight.validation_loss
        metrics = None if loss is None else {"validation_loss": loss}
        self._barriers.begin()
        try:
            is_saved = self.manager.save(flight.step, args=items, metrics=metrics, force=True)
        except Exception as error:  # raised again, unless a system or a service refused
            code = system_error(error)
            if code is None:
                raise
            if jax.process_count() > 1:
                # The others are past the point where they could hear of it: all must end.
                raise not_written(code, self._folder) from error
            return error
        # Orbax says no by returning False alone.
        latest = self.manager.latest_step()
        assert is_saved, f"checkpoint {flight.step} was not saved; the latest is {latest}"
        return None

    def _outcome(self) -> Exception | None:
        """What the save in flight came to on this process; only refusals are not raised."""
        try:
            self.manager.wait_until_finished()
        except AnotherFailed as error:
            return error
        except Exception as error:  # raised again, unless a system or a service refused
            if system_error(error) is None:
                raise
            return error
        return None

    def _agree(self, flight: Flight, problem: Exception | None) -> tuple[int, bool]:
        """What the save came to on all: an errno, or 0, and whether all could try it again."""
        code = 0 if problem is None else system_error(problem) or 0
        told = gathered(f"{code} {int(flight.can_be_repeated())}")
        codes = [int(text.split()[0]) for text in told]
        # What does not pass outweighs what may.
        lasting = [code for code in codes if code and code not in TRANSIENT]
        agreed = max(lasting or codes)
        return agreed, all(text.endswith("1") for text in told)

    def _check_space(self, arrays: Any) -> None:
        """OSError, on every process, unless the disk has room: Orbax would fail midway."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        own = together(
            lambda: read_with_patience(
                folder_of(self._folder).free_bytes, self._folder, sleep=self._sleep
            )
        )
        if own is None:
            return
        free = min(int(text) for text in gathered(str(own)))
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"the disk has {free / 1e6:,.0f} MB free, but a checkpoint takes "
                f"{needed / 1e6:,.0f} MB. Earlier checkpoints are whole: free some space and run "
                "the same command again",
                str(self._folder),
            )

    def _when_written(self) -> None:
        if self._flight is not None:
            folder = folder_of(self._folder)
            digest_own_files(folder.being_saved(self._flight.step, self._barriers.attempt))


def _close(manager: Any) -> None:
    """Close a manager of a failed save, of which more than one part may have failed."""
    for _ in range(3):
        try:
            manager.close()
            return
        except (OSError, ValueError, AnotherFailed, jax.errors.JaxRuntimeError):
            continue  # the first failure was told; each is raised once
        except Exception as error:
            if system_error(error) is None:
                raise
