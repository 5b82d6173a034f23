"""`jaxllm train`: the story of a run, from a config to a summary."""

from contextlib import ExitStack, closing
from pathlib import Path

import jax

from jaxllm.commands import run_folder
from jaxllm.commands.assembly import assemble, check_devices, initial_state, lower_step
from jaxllm.commands.console import Console, run_summary, step_shower
from jaxllm.commands.ending import is_complete, show_ending, write_ending
from jaxllm.commands.prepare import open_data
from jaxllm.commands.saved_state import SavedState
from jaxllm.commands.validation import Validation, check_samples
from jaxllm.config import RunConfig
from jaxllm.hardware import keep_freed_memory
from jaxllm.parallel import distributed
from jaxllm.parallel.shard import global_batch, host_rows
from jaxllm.training.guards import StopRequest
from jaxllm.training.step_log import StepLog
from jaxllm.training.throughput import Throughput


def train(config: RunConfig, *, dry_run: bool = False) -> int:
    """Train, or go on if the run folder has a checkpoint. Returns the exit code.

    ValueError for anything in the config that cannot work, before JAX compiles anything.
    """
    keep_freed_memory()
    distributed.initialize()
    run_folder.enable_compilation_cache(config.compilation_cache)
    run_dir, steps = Path(config.run_dir), config.training.steps
    layout = check_devices(config)
    run_folder.check_config(run_dir, config)

    with ExitStack() as stack:
        console = stack.enter_context(closing(Console(is_shown=distributed.is_first())))
        data = open_data(config, console)
        parts = assemble(config, layout=layout, vocab_size=data.vocab_size)
        check_samples(config.samples, data)
        console.say(run_summary(config, parts, data))
        loader = data.train_loader(
            seed=config.seed, rows=host_rows(layout, config.data.global_batch_size)
        )
        lowered = lower_step(config, parts, loader.batch(0))
        if dry_run:
            console.say("dry run: everything fits; nothing was trained")
            return 0

        run_folder.write_config(run_dir, config, data)
        saved = stack.enter_context(
            SavedState(
                run_dir / run_folder.CHECKPOINT_FOLDER,
                config.checkpoints,
                loader,
                vocab_size=data.vocab_size,
            )
        )
        start = saved.start
        if is_complete(run_dir, start, steps):
            show_ending(run_dir, console)
            return 0
        # Restored first: a checkpoint of another architecture is not worth compiling for.
        state = saved.restore(parts) if start else initial_state(config, parts)
        compiled = lowered.compile()
        console.say(f"resuming at step {start}" if start else "training from scratch")

        writer = stack.enter_context(run_folder.open_metrics(run_dir, config, step=start))
        validation = Validation(config, parts, data, writer=writer, console=console)
        clock = Throughput(
            tokens_per_step=config.data.global_batch_size * config.data.sequence_length,
            flops_per_token=config.model.flops_per_token(
                parts.num_matmul_params, config.data.sequence_length
            ),
        )
        log = StepLog(
            writer,
            clock,
            start=start,
            every=config.metrics.log_every,
            on_record=step_shower(console, start, steps),
        )
        if not saved.is_validated:
            validation.run(start, state, is_last=False)
        log.restart(start)
        profile = stack.enter_context(config.profile.build(run_dir / "profile"))
        batches = stack.enter_context(closing(loader.iterate(start)))
        stop = stack.enter_context(StopRequest())
        stack.enter_context(jax.transfer_guard("disallow"))

        for step, batch in zip(range(start + 1, steps + 1), clock.timed(batches), strict=False):
            profile.before_step(step - 1, state.step)
            host_batch = global_batch(layout, batch, rows=config.data.global_batch_size)
            state, metrics = compiled(state, host_batch)
            log.push(step, metrics)
            is_last = step == steps
            is_stopped = stop.is_set(step) and not is_last
            if validation.is_due(step) or saved.is_due(step) or is_last or is_stopped:
                log.flush()
                # Who asks to stop gives little time: the next start validates instead.
                is_validated = not (is_stopped and validation.is_due(step))
                if is_validated:
                    validation.run(step, state, is_last=is_last)
                if saved.is_due(step) or is_last or is_stopped:
                    loss = validation.loss_at(step)
                    saved.save(step, state, validation_loss=loss, is_validated=is_validated)
                log.restart(step)
            if is_stopped:
                saved.wait()
                console.interrupted(step)
                return stop.exit_code

        saved.wait()
        if start == steps:  # everything was there but the summary
            validation.run(steps, state, is_last=True, is_recorded=False)
        write_ending(
            config,
            score=validation.latest,
            sample=validation.latest_sample,
            wall_seconds=saved.wall_seconds,
        )
        show_ending(run_dir, console)
        return 0
