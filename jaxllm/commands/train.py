"""`jaxllm train`: the story of a run, from a config to a summary; its steps are in `loop`."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import cache, partial
from itertools import count

from jaxllm.commands import run_folder
from jaxllm.commands.assembly import assemble, check_devices, check_sizes, lower_step
from jaxllm.commands.batches import arrangement, num_ids
from jaxllm.commands.console import Console, run_summary
from jaxllm.commands.first_state import check_start
from jaxllm.commands.lease import RunLease
from jaxllm.commands.loop import Run, go_on
from jaxllm.commands.prepare import open_data
from jaxllm.commands.run_place import RunPlace
from jaxllm.commands.same_start import check_same_start
from jaxllm.commands.validation import check_validation
from jaxllm.commands.without_data import check_without_data
from jaxllm.config import RunConfig, with_data
from jaxllm.data import MissingData
from jaxllm.hardware import keep_freed_memory
from jaxllm.parallel import distributed
from jaxllm.training.goodput import Goodput
from jaxllm.training.phases import Phases
from jaxllm.xla_flags import compiler_options


def train(config: RunConfig, *, dry_run: bool = False, requested: Sequence[str] = ()) -> int:
    """Train, or go on if the run folder has a checkpoint. Returns the exit code.

    requested: keys in which a run that goes on may differ from what it was. ValueError for
    anything in the config that cannot work, before JAX compiles anything.
    """
    goodput = Goodput()
    keep_freed_memory()
    distributed.initialize()
    check_same_start(config, requested)
    run_folder.enable_compilation_cache(config.compilation_cache)
    layout = check_devices(config)
    with ExitStack() as stack:
        stack.enter_context(goodput)
        place = stack.enter_context(RunPlace(config.run_dir, is_kept=not dry_run))
        run_dir = place.path
        run_folder.check_config(run_dir, config, requested=requested)
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
        config = with_data(config, data.config)
        parts = assemble(config, layout=layout, vocab_size=num_ids(config, data))
        check_validation(config, data)
        if not run_folder.has_checkpoint(run_dir):
            check_start(config, parts)
        watchdog = config.training.watchdog.build(
            run_dir if distributed.is_first() else None, on_end=goodput.end
        )
        phases = Phases(goodput, watchdog)
        options = compiler_options(layout.mesh.devices.flat, config.xla_flags)
        with phases.during("compile"):
            any_batch = data.train_loader(
                seed=config.seed, rows=[0], arrange=arrangement(config, data, seed=config.seed)
            ).batch(0)
            lowered = lower_step(config, parts, any_batch)
        console.say(run_summary(config, parts, data))
        if dry_run:
            console.say("dry run: everything fits; nothing was trained")
            return 0

        if distributed.is_first():
            stack.enter_context(RunLease(run_dir, origin=place.origin))
            # Once more: another start may have changed the folder while this one waited for it.
            place.refresh()
            run_folder.check_config(run_dir, config, requested=requested)
            must_send = config.metrics.on_error == "stop"
            stack.enter_context(place.sending(must_send=must_send, say=console.say))
            stack.push(goodput)  # ended first, so that its last record is sent too
        run_folder.make_folder(run_dir, config, data)
        place.share()
        stack.enter_context(watchdog)
        run = Run(
            config=config,
            place=place,
            data=data,
            parts=parts,
            compiled=cache(partial(lowered.compile, compiler_options=options)),
            console=console,
            phases=phases,
            goodput=goodput,
            progress=watchdog.progress,
        )
        for attempt in count():
            code = go_on(run, is_going_back=attempt > 0)
            if code is not None:
                return code
    raise AssertionError("the loop above ends only by returning")
