"""The verbs that try a pod run before anyone rents the pod."""

from pathlib import Path
from typing import Annotated

import typer

from jaxllm.verbs.arguments import ConfigArgument, OverridesArgument, load

TopologyOption = Annotated[
    str, typer.Option(help="A TPU slice as v5p:2x2x4, or a pod's name as v5p-32.")
]
SlicesOption = Annotated[int, typer.Option(help="Equal slices, joined by the data-centre network.")]


def add_to(app: typer.Typer) -> None:
    """These verbs, in the order of `--help`."""
    app.command("compile")(compile_step)
    app.command()(plan)


def compile_step(
    config: ConfigArgument,
    topology: TopologyOption,
    overrides: OverridesArgument = None,
    slices: SlicesOption = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON.")
    ] = None,
    hlo_file: Annotated[
        Path | None, typer.Option("--hlo", metavar="FILE", help="Also write the scheduled program.")
    ] = None,
) -> None:
    """Compile the training step for a TPU slice, without a TPU: memory, time, collectives.

    Ends with exit code 1 if the step does not fit into the chips' memory.
    """
    from jaxllm.commands.compile import compile_command

    loaded = load(config, overrides)
    raise typer.Exit(
        compile_command(
            loaded, topology=topology, slices=slices, json_path=json_file, hlo_path=hlo_file
        )
    )


def plan(
    config: ConfigArgument,
    topology: TopologyOption,
    overrides: OverridesArgument = None,
    slices: SlicesOption = 1,
    global_batch: Annotated[
        int | None, typer.Option(help="Rows of a step, in place of data.global_batch_size.", min=1)
    ] = None,
    budget: Annotated[
        float, typer.Option(metavar="MINUTES", help="How long candidates are compiled.")
    ] = 20.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The fastest config; default CONFIG_TOPOLOGY.yaml."),
    ] = None,
    smallest: Annotated[
        bool, typer.Option("--smallest", help="Only find the smallest slice that is enough.")
    ] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also say what 16 to 4,096 such chips would do.")
    ] = False,
) -> None:
    """Find the fastest layout, remat policy and batch split for a TPU slice, without a TPU.

    Stopped, it goes on from what it had. Ends with exit code 1 if nothing fits.
    """
    from jaxllm.commands.plan import plan
    from jaxllm.commands.plan_smallest import find_smallest
    from jaxllm.config_files import find_config

    file, given = find_config(config), list(overrides or [])
    if global_batch is not None:
        given.append(f"data.global_batch_size={global_batch}")
    if smallest:
        ignored = {"--slices": slices > 1, "--out": out is not None, "--scaling": scaling}
        for option, is_given in ignored.items():
            if is_given:
                raise ValueError(f"{option} says nothing about the smallest slice; leave it out")
        is_found = find_smallest(file, given, topology=topology, budget=budget) is not None
    else:
        ranking = plan(
            file,
            given,
            topology=topology,
            slices=slices,
            budget=budget,
            out=out,
            with_scaling=scaling,
        )
        is_found = any(outcome.fits for outcome in ranking)
    raise typer.Exit(0 if is_found else 1)
