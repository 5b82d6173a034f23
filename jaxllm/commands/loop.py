"""The steps of a run: from its newest checkpoint to its end, or to where it has to go back."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from typing import NamedTuple

import jax

from jaxllm.commands import run_folder, run_records
from jaxllm.commands.assembly import Assembly
from jaxllm.commands.batches import arrangement
from jaxllm.commands.console import Console, step_shower
from jaxllm.commands.ending import is_complete, show_ending, write_ending
from jaxllm.commands.first_state import starting_state
from jaxllm.commands.rollback import batches_left_out
from jaxllm.commands.run_place import RunPlace
from jaxllm.commands.saved_state import SavedState
from jaxllm.commands.skips import SkippedSteps
from jaxllm.commands.step_flops import flops_per_token
from jaxllm.commands.validation import Validation
from jaxllm.config import RunConfig
from jaxllm.data import Data
from jaxllm.parallel import distributed
from jaxllm.parallel.shard import global_batch, host_rows
from jaxllm.training.checks import StepChecks
from jaxllm.training.goodput import Goodput
from jaxllm.training.phases import Phases
from jaxllm.training.signals import StopRequest
from jaxllm.training.step_log import StepLog
from jaxllm.training.throughput import Throughput


class Run(NamedTuple):
    """A run as far as no array is needed.

    compiled: the training step as an executable, compiled by the first call. progress: tells the
    watchdog that something has got on, and what.
    """

    config: RunConfig
    place: RunPlace
    data: Data
    parts: Assembly
    compiled: Callable[[], jax.stages.Compiled]
    console: Console
    phases: Phases
    goodput: Goodput
    progress: Callable[[str], None]


def go_on(run: Run, *, is_going_back: bool = False) -> int | None:
    """Train from the newest checkpoint to the end.

    Returns the exit code, or None where steps had to be skipped so often that the run goes back:
    then it is called again. is_going_back: whether that is this call.
    """
    config, parts, console, phases = run.config, run.parts, run.console, run.phases
    run_dir, steps = run.place.path, config.training.steps
    rows = config.data.global_batch_size
    with ExitStack() as stack:
        loader = run.data.train_loader(
            seed=config.seed,
            rows=host_rows(parts.layout, rows),
            skipped=batches_left_out(run_dir),
            arrange=arrangement(config, run.data, seed=config.seed),
        )
        saved = stack.enter_context(
            run_folder.open_saved_state(
                run_dir,
                config,
                run.data,
                loader,
                before_save=run.place.send,
                on_message=console.say,
            )
        )
        if is_complete(run_dir, saved.start, steps):
            show_ending(run_dir, console)
            return 0
        if not is_going_back:
            run_records.open_goodput(run.goodput, run_dir, step=saved.start, say=console.say)
        # Restored first: a checkpoint of another architecture is not worth compiling for.
        with phases.during("restore"):
            state = starting_state(config, parts, saved, console)
        run_folder.write_config(run_dir, config, run.data)
        writer = stack.enter_context(
            run_records.open_metrics(run_dir, config, step=saved.start, say=console.say)
        )
        with phases.during("compile"):
            compiled = run.compiled()
        if saved.start:
            console.say(f"resuming at step {saved.start}")
        stop = StopRequest()
        validation = Validation(
            config,
            parts,
            run.data,
            writer=writer,
            console=console,
            on_batch=partial(run.progress, "evaluation"),
            must_stop=stop.is_set,
        )
        clock = _clock(config, parts)
        log = StepLog(
            writer,
            clock,
            start=saved.start,
            every=config.metrics.log_every,
            on_record=step_shower(
                console, saved.start, steps, tokens_per_step=clock.tokens_per_step
            ),
            on_finished=phases.stepped,
            figures=run.goodput.figures,
        )
        run.goodput.watch_device(log.is_device_busy)
        skipped = SkippedSteps(
            config.training.anomalies,
            run_dir,
            loader,
            saved=saved,
            can_begin_anew=not run_folder.is_imported(run_dir),
            must_log=config.metrics.on_error == "stop",
            on_rollback=run.goodput.went_back,
            say=console.say,
        )
        checks = StepChecks(
            parts.state,
            replicas_every=config.training.replica_check_every,
            repeat_every=config.training.repeat_check_every,
            say=console.say,
        )
        profile = stack.enter_context(config.profile.build(run_dir / "profile"))
        batches = stack.enter_context(closing(loader.iterate(saved.start)))
        stack.enter_context(stop)
        stack.enter_context(jax.transfer_guard("disallow"))
        phases.begin_steps()
        is_at_end = saved.start == steps  # everything is there but the summary
        # Weights that came from elsewhere are scored as they came, to be compared with later.
        is_new = saved.start == 0 and config.init_from is None
        is_due = (validation.is_due(saved.start) and not is_new) or is_at_end
        lacks_scores = is_due and run_records.lacks_scores(run_dir, saved.start)
        if lacks_scores or is_at_end:
            with phases.during("evaluation"):  # what a stop had no time for
                is_done = validation.run(
                    saved.start, state, is_last=is_at_end, is_recorded=lacks_scores
                )
            if not is_done:
                return _stopped(run, stop, saved.start, is_saved=saved.start > 0)
        log.resume()

        remaining = range(saved.start + 1, steps + 1)
        for step, batch in zip(remaining, clock.timed(phases.waiting(batches)), strict=False):
            log.poll()
            profile.before_step(step - 1, state.step)
            host_batch = global_batch(parts.layout, batch, rows=rows)
            state, metrics = checks.compute(step, compiled, state, host_batch)
            log.push(step, metrics)
            is_last = step == steps
            is_stopped = stop.is_set() and not is_last
            must_save = saved.is_due(step) or is_last or is_stopped
            is_paused = must_save or validation.is_due(step)
            if skipped.must_go_back(step, metrics, is_paused=is_paused):
                break
            if is_paused:
                log.pause(step, metrics)
                if not is_stopped:  # which has no time for scores: the next start makes them
                    with (
                        phases.during("evaluation"),
                        saved.saving_on_failure(
                            step, state, training_seconds=clock.training_seconds
                        ),
                    ):
                        is_stopped = not validation.run(step, state, is_last=is_last)
                must_save |= is_stopped
            checks.compare(step, state, is_saved=must_save)
            if must_save:
                with phases.during("checkpoint"):
                    saved.save(
                        step,
                        state,
                        validation_loss=validation.loss_at(step),
                        training_seconds=clock.training_seconds,
                    )
            if is_paused:
                log.resume()
            if is_stopped:
                with phases.during("checkpoint"):
                    saved.wait()
                return _stopped(run, stop, step, is_saved=True)
        else:
            with phases.during("checkpoint"):
                saved.wait()
            phases.end()
            _end(run, saved, validation, clock)
            return 0
    # What is on disk leads to the same run whether it goes on now or later.
    return None if stop.signal is None else _stopped(run, stop, step, is_saved=False)


def _end(run: Run, saved: SavedState, validation: Validation, clock: Throughput) -> None:
    write_ending(
        run.place.path,
        run.config,
        score=validation.latest,
        sample=validation.latest_sample,
        task=validation.summary(run.data) if distributed.is_first() else {},
        training_seconds=saved.training_seconds_before + clock.training_seconds,
        wall_seconds=saved.wall_seconds,
        goodput=run.goodput.seconds,
    )
    show_ending(run.place.path, run.console)


def _stopped(run: Run, stop: StopRequest, step: int, *, is_saved: bool) -> int:
    assert stop.signal is not None
    run.goodput.end(stop.exit_code, stop.signal.name)
    run.console.interrupted(step, is_saved=is_saved)
    return stop.exit_code


def _clock(config: RunConfig, parts: Assembly) -> Throughput:
    return Throughput(
        tokens_per_step=config.data.global_batch_size * config.data.sequence_length,
        flops_per_token=flops_per_token(config, parts),
    )
