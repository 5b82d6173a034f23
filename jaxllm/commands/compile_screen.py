"""One screen about a compiled training step."""

from collections import Counter

from rich import box
from rich.table import Table
from rich.text import Text

from jaxllm.aot.report import Report
from jaxllm.commands.console import Console, params_words

_SHOWN_COLLECTIVES = 12


def show_report(report: Report) -> None:
    """Print what was found; where the step does not fit, what takes the memory."""
    console = Console(is_shown=True)
    console.show(_heading(report))
    console.show(_figures(report))
    if not report.fits:
        console.show(_buffers(report))
    elif report.collectives:
        console.show(_collectives(report))
    for warning in report.warnings:
        console.show(Text(f"note: {warning}", style="yellow"))
    if report.fits:
        console.say("predictions rank layouts and programs; they do not promise a speed")


def _heading(report: Report) -> Text:
    verdict = Text("fits", style="bold green")
    if not report.fits:
        verdict = Text("does not fit", style="bold red")
    share = report.peak_hbm_gib / report.hbm_limit_gib
    return Text.assemble(
        verdict,
        f": {report.peak_hbm_gib:.2f} of {report.hbm_limit_gib:.2f} GiB HBM a device ({share:.0%})",
    )


def _figures(report: Report) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    slices = f"{report.num_slices} slices of " if report.num_slices > 1 else ""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items() if size > 1)
    table.add_row(
        "program",
        f"{params_words(report.num_params, report.num_active_params)}, "
        f"{report.tokens_per_step:,} tokens a step, on "
        f"{slices}{report.topology} ({report.chips:,} chip{'s' * (report.chips != 1)}), "
        f"{mesh or 'one device'}",
    )
    memory = ", ".join(f"{name} {size:.2f}" for name, size in report.memory_gib.items())
    host = f"; host memory {report.host_memory_gib:.2f}" if report.host_memory_gib else ""
    table.add_row("memory", f"{memory} GiB{host}")
    if report.predicted_step_seconds is not None and report.predicted_step_seconds_range:
        low, high = report.predicted_step_seconds_range
        table.add_row(
            "predicted",
            f"{_seconds(report.predicted_step_seconds)} a step ({_seconds(low)} to "
            f"{_seconds(high)}), MFU {report.predicted_mfu:.1%}, "
            f"{report.tokens_per_second_per_chip:,.0f} tokens/s/chip",
        )
        spent = ", ".join(
            f"{_KINDS[kind]} {_seconds(seconds)} ({seconds / report.predicted_step_seconds:.0%})"
            for kind, seconds in sorted(report.seconds_by_kind.items(), key=lambda kind: -kind[1])
        )
        table.add_row("time", spent)
        table.add_row("compiler's", f"{report.estimated_cycles:.3g} cycles in all loops")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    table.add_row("compiled", f"in {report.compile_seconds:.0f} s by {versions}")
    return table


_KINDS = {
    "matmul": "matmul",
    "vector": "vector",
    "pallas": "Pallas",
    "communication": "exposed communication",
    "copy": "waiting for copies",
}


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _collectives(report: Report) -> Table:
    table = Table(title="collectives of a step", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("kind", "mesh axes", "how"):
        table.add_column(heading, no_wrap=True)
    for heading in ("count", "bytes", "on the links", "exposed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in report.collectives[:_SHOWN_COLLECTIVES]:
        table.add_row(
            line.kind,
            " x ".join(line.axes) or "-",
            "asynchronous" if line.asynchronous else "synchronous",
            f"{line.count:,}",
            _bytes(line.bytes),
            _seconds(line.seconds),
            _seconds(line.exposed_seconds),
        )
    hidden = len(report.collectives) - _SHOWN_COLLECTIVES
    if hidden > 0:
        table.caption = f"and {hidden} shorter ones, all of them in --json"
    return table


def _buffers(report: Report) -> Table:
    table = Table(title="largest buffers", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("GiB", justify="right")
    table.add_column("type")
    table.add_column("from")
    alike = Counter(
        (line.gib, line.type, line.source or line.operation) for line in report.largest_buffers
    )
    for (gib, kind, source), count in alike.items():
        times = f"{count} x " if count > 1 else ""
        table.add_row(f"{times}{gib:.2f}", Text(kind), Text(source))
    return table


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"
