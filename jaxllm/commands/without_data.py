"""A run whose data is not there yet: what its config alone tells."""

from jaxllm.commands.assembly import assemble, known_num_ids, lower_step
from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.console import Console, run_summary
from jaxllm.config import RunConfig
from jaxllm.data import MissingData
from jaxllm.parallel.layouts import Layout
from jaxllm.xla_flags import compiler_options


def vocab_size_without_data(config: RunConfig, missing: MissingData, console: Console) -> int:
    """The ids of data that is not there, of which is told in a line what is missing.

    Raises `missing` where only the data tells how many there are.
    """
    size = known_num_ids(config) or config.model.vocab_size
    if size is None:
        raise missing
    console.say(f"the data is not there yet: {'; '.join(map(str, missing.problems))}")
    return size


def check_without_data(
    config: RunConfig, layout: Layout, missing: MissingData, console: Console
) -> None:
    """A dry run as far as it goes. ValueError for what cannot work whatever the data is."""
    vocab_size = vocab_size_without_data(config, missing, console)
    parts = assemble(config, layout=layout, vocab_size=vocab_size)
    lower_step(config, parts, abstract_batch(config))
    compiler_options(layout.mesh.devices.flat, config.xla_flags)
    console.say(run_summary(config, parts, None))
    console.say("dry run: everything fits but the data, which is missing; nothing was trained")
