"""What a run does about steps that were skipped: it says so, writes them down, or goes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxllm.commands.rollback import Batches, log_skipped, plan_rollback, record_rollback
from jaxllm.commands.saved_state import SavedState
from jaxllm.training.anomaly import AnomalyConfig, AnomalyWatch, Verdict


class SkippedSteps:
    """Watches for skipped steps, and takes the run back where there are too many in a row."""

    def __init__(
        self,
        config: AnomalyConfig | None,
        run_dir: Path,
        batches: Batches,
        *,
        saved: SavedState,
        can_begin_anew: bool,
        must_log: bool,
        on_rollback: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> None:
        """config: None watches nothing. can_begin_anew: see `plan_rollback`.

        must_log: whether the run ends where skipped.jsonl cannot be written. on_rollback: told the
        last step done and the one gone back to.
        """
        self._config = config
        self._watch = AnomalyWatch(config)
        self._run_dir, self._batches, self._saved = run_dir, batches, saved
        self._can_begin_anew, self._must_log = can_begin_anew, must_log
        self._on_rollback, self._say = on_rollback, say

    def must_go_back(self, step: int, metrics: dict[str, jax.Array], *, is_paused: bool) -> bool:
        """Take the metrics of a step just dispatched. Whether training goes on from before.

        If so, what lies behind is gone from disk already. is_paused: whether the loop turns to
        something else, such as a save; then the verdict of this very step is waited for. The
        answer is the same on every process. RunStuck where the run may not go back once more.
        """
        verdicts: list[Any] = [self._watch.push(step, metrics)]
        if is_paused and not _goes_back(verdicts[0]):
            verdicts.append(self._watch.flush())
        for verdict in filter(None, verdicts):
            self._log(verdict)
            self._say(verdict.message)
            if verdict.must_roll_back:
                self._go_back(verdict)
                return True
        return False

    def _log(self, verdict: Verdict) -> None:
        try:
            log_skipped(self._run_dir, verdict, self._batches)
        except OSError as error:
            if self._must_log:
                raise
            self._say(f"step {verdict.step} is missing from {error.filename}: {error.strerror}")

    def _go_back(self, verdict: Verdict) -> None:
        assert self._config is not None
        rollback = plan_rollback(
            self._run_dir,
            verdict,
            self._batches,
            kept_steps=self._saved.sound_steps(),
            can_begin_anew=self._can_begin_anew,
            max_rollbacks=self._config.max_rollbacks,
        )
        # In this order: killed in between, the run comes to the same steps, and back, once more.
        self._saved.forget_after(rollback.to_step)
        record_rollback(self._run_dir, rollback)
        self._on_rollback(rollback.from_step, rollback.to_step)
        self._say(
            f"{verdict.in_a_row} steps in a row were skipped: going back to step "
            f"{rollback.to_step}, without batches {rollback.batches[0]} to {rollback.batches[-1]}"
        )


def _goes_back(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.must_roll_back
