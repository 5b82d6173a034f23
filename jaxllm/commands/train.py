"""`jaxllm train`: the story of a run, from a config to a summary."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import jax

from jaxllm.commands import run_folder
from jaxllm.commands.assembly import (
    Assembly,
    assemble,
    check_devices,
    check_sizes,
    lower_step,
)
from jaxllm.commands.console import Console, run_summary, step_shower
from jaxllm.commands.ending import is_complete, show_ending, write_ending
from jaxllm.commands.first_state import check_start, first_state
from jaxllm.commands.prepare import open_data
from jaxllm.commands.validation import Validation, check_validation
from jaxllm.commands.without_data import check_without_data
from jaxllm.config import RunConfig
from jaxllm.data import MissingData
from jaxllm.hardware import keep_freed_memory
from jaxllm.parallel import distributed
from jaxllm.parallel.shard import global_batch, host_rows
from jaxllm.training.guards import StopRequest
from jaxllm.training.step_log import StepLog
from jaxllm.training.throughput import Throughput
from jaxllm.xla_flags import compiler_options


def train(config: RunConfig, *, dry_run: bool = False, requested: Sequence[str] = ()) -> int:
    """Train, or go on if the run folder has a checkpoint. Returns the exit code.

    requested: keys in which a run that goes on may differ from what it was. ValueError for
    anything in the config that cannot work, before JAX compiles anything.
    """
    keep_freed_memory()
    distributed.initialize()
    run_folder.enable_compilation_cache(config.compilation_cache)
    run_dir, steps = Path(config.run_dir), config.training.steps
    layout = check_devices(config)
    run_folder.check_config(run_dir, config, requested=requested)
    with ExitStack() as stack:
        console = stack.enter_context(closing(Console(is_shown=distributed.is_first())))
        if not run_folder.dataset_folders(run_dir):
            check_sizes(config, layout)
        try:
            data = open_data(config, console, **run_folder.known_data(run_dir))
        except MissingData as missing:
            if not dry_run:
                raise
            check_without_data(config, layout, missing, console)
            return 0
        parts = assemble(config, layout=layout, vocab_size=data.vocab_size)
        check_validation(config, data)
        if not run_folder.has_checkpoint(run_dir):
            check_start(config, parts)
        rows = host_rows(layout, config.data.global_batch_size)
        loader = data.train_loader(seed=config.seed, rows=rows)
        lowered = lower_step(config, parts, loader.batch(0))
        options = compiler_options(layout.mesh.devices.flat, config.xla_flags)
        console.say(run_summary(config, parts, data))
        if dry_run:
            console.say("dry run: everything fits; nothing was trained")
            return 0

        run_folder.make_folder(run_dir, config, data)
        saved = stack.enter_context(run_folder.open_saved_state(run_dir, config, data, loader))
        if is_complete(run_dir, saved.start, steps):
            show_ending(run_dir, console)
            return 0
        # Restored first: a checkpoint of another architecture is not worth compiling for.
        state = saved.restore(parts) if saved.start else first_state(config, parts, saved, console)
        writer = stack.enter_context(run_folder.open_metrics(run_dir, config, step=saved.start))
        run_folder.write_config(run_dir, config, data)
        compiled = lowered.compile(compiler_options=options)
        if saved.start:
            console.say(f"resuming at step {saved.start}")
        validation = Validation(config, parts, data, writer=writer, console=console)
        clock = _clock(config, parts)
        log = StepLog(
            writer,
            clock,
            start=saved.start,
            every=config.metrics.log_every,
            on_record=step_shower(
                console, saved.start, steps, tokens_per_step=clock.tokens_per_step
            ),
        )
        profile = stack.enter_context(config.profile.build(run_dir / "profile"))
        batches = stack.enter_context(closing(loader.iterate(saved.start)))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(jax.transfer_guard("disallow"))
        log.resume()

        remaining = range(saved.start + 1, steps + 1)
        for step, batch in zip(remaining, clock.timed(batches), strict=False):
            log.poll()
            profile.before_step(step - 1, state.step)
            host_batch = global_batch(layout, batch, rows=config.data.global_batch_size)
            state, metrics = compiled(state, host_batch)
            log.push(step, metrics)
            is_last = step == steps
            is_stopped = stop.is_set(step) and not is_last
            must_save = saved.is_due(step) or is_last or is_stopped
            if must_save or validation.is_due(step):
                log.pause(step, metrics)
                # Scored before it is saved: what a checkpoint has behind it is in the metrics.
                with saved.saving_on_failure(step, state, training_seconds=clock.training_seconds):
                    validation.run(step, state, is_last=is_last)
                if must_save:
                    saved.save(
                        step,
                        state,
                        validation_loss=validation.loss_at(step),
                        training_seconds=clock.training_seconds,
                    )
                log.resume()
            if is_stopped:
                saved.wait()
                console.interrupted(step)
                return stop.exit_code

        saved.wait()
        if saved.start == steps:  # everything was there but the summary
            validation.run(steps, state, is_last=True, is_recorded=False)
        write_ending(
            config,
            score=validation.latest,
            sample=validation.latest_sample,
            training_seconds=saved.training_seconds_before + clock.training_seconds,
            wall_seconds=saved.wall_seconds,
        )
        show_ending(run_dir, console)
        return 0


def _clock(config: RunConfig, parts: Assembly) -> Throughput:
    length = config.data.sequence_length
    return Throughput(
        tokens_per_step=config.data.global_batch_size * length,
        flops_per_token=config.model.flops_per_token(parts.num_matmul_params, length),
    )
