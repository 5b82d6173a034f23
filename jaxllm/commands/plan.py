"""`jaxllm plan`: the fastest way to run a config on a TPU slice, found with the TPU compiler."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from jaxllm.aot.search import Search, add_known, run_search
from jaxllm.aot.search_outcome import Outcome
from jaxllm.aot.search_workload import Workload
from jaxllm.aot.topology import Topology, parse_topology, require_libtpu
from jaxllm.commands.plan_compiler import (
    FIRST_COMPILE_SECONDS,
    StepCompiler,
    budget_left,
    num_workers,
    result_cache,
    set_candidate,
)
from jaxllm.commands.plan_scaling import show_scaling
from jaxllm.commands.plan_screen import PlanScreen, limit_words, progress_line, ranking_table
from jaxllm.commands.plan_workload import make_search, workload_of
from jaxllm.config import RunConfig, apply_override, load_config
from jaxllm.config_files import shipped_configs


def plan(
    config_file: Path,
    overrides: Sequence[str],
    *,
    topology: str,
    slices: int = 1,
    budget: float,
    out: Path | None = None,
    is_written: bool = True,
    with_scaling: bool = False,
) -> list[Outcome]:
    """Search, show the ranking, write the winner. Returns the ranking, the fastest first.

    budget: minutes in which compiles may begin that are expected to end in them. out: the file of
    the winner, by default `default_out`; there is none where nothing fits, or is_written is false.
    ValueError for what cannot be planned, before anything is compiled.
    """
    config = load_config(config_file, overrides)
    chosen = parse_topology(topology, num_slices=slices)
    out = out or default_out(config_file, chosen)
    if is_written:
        _check_out(out, config_file)
    screen, workload = PlanScreen(), workload_of(config)
    search = find_best(config, workload, chosen, budget=budget, screen=screen)
    screen.show(ranking_table(search.ranking(), width=screen.width))
    screen.say(progress_line(search))
    if search.best is None:
        screen.say(
            f"nothing that was compiled fits on {chosen.name}; give a larger --budget or slice, or "
            "ask --smallest which one would do"
        )
        return search.ranking()
    if with_scaling:
        show_scaling(workload, search, chosen, screen)
    if is_written:
        write_winner(config_file, overrides, search.best, chosen, out)
        screen.say(f"the fastest is written to {out}: jaxllm train {out}")
    screen.say("predictions rank layouts and programs; they do not promise a speed")
    return search.ranking()


def find_best(
    config: RunConfig, workload: Workload, topology: Topology, *, budget: float, screen: PlanScreen
) -> Search:
    """The search after its budget. Ctrl-C and SIGTERM show what was found and go on upwards."""
    require_libtpu()
    search = make_search(workload, topology, flags_set=set(config.xla_flags))
    cache = result_cache(config, topology, vocab_size=workload.vocab_size)
    known = [cache.load(candidate) for candidate in search.possible()]
    add_known(search, [outcome for outcome in known if outcome is not None])
    if search.outcomes:
        screen.say(f"{len(search.outcomes)} results of an earlier plan are taken over")
    else:
        _check_worth_it(search, topology, budget)
    workers = num_workers()
    with StepCompiler(config, topology, cache, workers) as compiler, screen:
        may_start = budget_left(
            budget, compiler.seconds, first_seconds=FIRST_COMPILE_SECONDS, clock=time.monotonic
        )
        try:
            run_search(
                search,
                compiler.submit,
                num_workers=workers,
                may_start=may_start,
                on_change=lambda: screen.update(search),
            )
        except (KeyboardInterrupt, SystemExit):
            screen.show(ranking_table(search.ranking(), width=screen.width))
            screen.say("what is finished is kept; the same command goes on from it")
            raise
    return search


def _check_worth_it(search: Search, topology: Topology, budget: float) -> None:
    """ValueError where nothing can be compiled, or nothing that was compiled could fit."""
    if budget * 60 < FIRST_COMPILE_SECONDS:
        raise ValueError(
            f"--budget {budget:g}: minutes too few for one compile, which takes 1 to 5; "
            f"give {FIRST_COMPILE_SECONDS / 60:g} or more"
        )
    if not search.num_open:
        raise ValueError(
            f"--topology {topology.name}: every layout surely needs more than the "
            f"{topology.tpu.hbm_limit_gib:g} GiB of a device; give a larger slice, or ask "
            "--smallest which one would do"
        )


def _check_out(out: Path, config_file: Path) -> None:
    """ValueError for a file that could not be written in the end."""
    if out.resolve() == config_file.resolve():
        raise ValueError(f"--out {out}: that is the config itself; give another file")
    if out.is_dir():
        raise ValueError(f"--out {out}: that is a folder; give a file")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it first")


def default_out(config_file: Path, topology: Topology) -> Path:
    """Beside the config, or here for one that came with jaxllm."""
    slices = f"{topology.num_slices}x" if topology.num_slices > 1 else ""
    name = f"{config_file.stem}_{slices}{topology.name.replace(':', '_')}.yaml"
    return Path(name) if config_file in shipped_configs().values() else config_file.with_name(name)


def write_winner(
    config_file: Path, overrides: Sequence[str], winner: Outcome, topology: Topology, out: Path
) -> None:
    """The config's own keys with the winner's, ready to train."""
    raw: dict[str, Any] = yaml.safe_load(config_file.read_text(encoding="utf-8"))
    for override in overrides:
        apply_override(raw, override)
    set_candidate(raw, winner.candidate)
    slices = f" --slices {topology.num_slices}" if topology.num_slices > 1 else ""
    heading = (
        f"# jaxllm train {out}\n"
        f"# {config_file.stem} as planned for {topology.name}{slices}: {winner.peak_gib:.2f} GiB "
        f"of HBM a device,\n# predicted {winner.seconds:.3f} s a step ({limit_words(winner)}).\n"
        f"# Proved without the pod: jaxllm compile {out} --topology {topology.name}{slices}\n"
    )
    body = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, default_flow_style=None)
    out.write_text(heading + body, encoding="utf-8")
