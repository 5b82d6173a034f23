"""`jaxllm compile`: the training step, compiled for a TPU slice on a machine that has none."""

import json
import warnings
from pathlib import Path

from jaxllm.aot.compilation import compile_lowered
from jaxllm.aot.report import Report
from jaxllm.aot.topology import Topology, parse_topology, topology_devices
from jaxllm.commands.assembly import assemble, check_devices, lower_step, stated_vocab_size
from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.compile_report import make_report
from jaxllm.commands.compile_screen import show_report
from jaxllm.config import RunConfig
from jaxllm.xla_flags import compiler_options

EXIT_DOES_NOT_FIT = 1


def compile_command(
    config: RunConfig,
    *,
    topology: str,
    slices: int = 1,
    json_path: Path | None = None,
    hlo_path: Path | None = None,
) -> int:
    """Compile, show one screen, write the files asked for. Returns the exit code: 1 is no fit."""
    for option, path in (("--json", json_path), ("--hlo", hlo_path)):
        if path is not None and not path.absolute().parent.is_dir():
            raise ValueError(f"{option} {path}: there is no folder {path.parent} to write into")
        if path is not None and path.is_dir():
            raise ValueError(f"{option} {path}: that is a folder; give the name of a file")
    report = compile_config(config, parse_topology(topology, num_slices=slices), hlo_path=hlo_path)
    show_report(report)
    if json_path is not None:
        json_path.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    return 0 if report.fits else EXIT_DOES_NOT_FIT


def compile_config(
    config: RunConfig, topology: Topology, *, hlo_path: Path | None = None
) -> Report:
    """What the config's training step would take on a topology. Prints nothing.

    hlo_path: a file for the scheduled program. ValueError for a config that cannot work there,
    before anything is compiled.
    """
    if "xla_dump_to" in config.xla_flags:
        raise ValueError(
            "xla_flags.xla_dump_to: compile reads the compiler's files itself; take it out, and "
            "give --hlo FILE for the program"
        )
    layout = check_devices(config, topology_devices(topology))
    parts = assemble(config, layout=layout, vocab_size=stated_vocab_size(config))
    lowered = lower_step(config, parts, abstract_batch(config))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = compiler_options(layout.mesh.devices.flat, config.xla_flags)
    compiled = compile_lowered(lowered, options, limit_gib=topology.tpu.hbm_limit_gib)
    if hlo_path is not None:
        hlo_path.write_text(compiled.text, encoding="utf-8")
    notes = [str(warning.message) for warning in caught]
    return make_report(config, topology, parts, compiled, options=options, notes=notes)
