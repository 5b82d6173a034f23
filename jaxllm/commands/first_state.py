"""The state before the first step: new weights, a published model's, or another run's."""

from functools import partial

import jax

from jaxllm.checkpoints.start import RunStart
from jaxllm.commands.assembly import Assembly, initial_state, state_of
from jaxllm.commands.console import Console
from jaxllm.commands.saved_state import SavedState, folded, unfolded_shapes
from jaxllm.config import RunConfig
from jaxllm.hf.weights import num_bytes_read
from jaxllm.models import ModelConfig
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.training.state import TrainState


def first_state(
    config: RunConfig, parts: Assembly, saved: SavedState, console: Console
) -> TrainState:
    """As the config's init_from says, or with the weights that were imported into the run folder.

    ValueError for weights that do not fit the model.
    """
    if saved.has_weights:
        params = saved.restore_weights(parts)
        console.say("starting from the weights that were imported into the run folder")
    elif config.init_from is None:
        console.say("training from scratch")
        return initial_state(config, parts)
    else:
        params = _started_weights(config, parts, console)
        console.say(f"starting from the weights of {config.init_from.path}")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state)
    make = partial(state_of, config=config, parts=parts)
    return jax.jit(make, out_shardings=shardings, donate_argnums=0)(params)


def check_start(config: RunConfig, parts: Assembly) -> None:
    """ValueError for weights of init_from that do not fit the model, before any are read."""
    if isinstance(config.init_from, RunStart):
        config.init_from.check(unfolded_shapes(parts.state.params))
    elif config.init_from is not None:
        config.init_from.check(_natural_model(config, parts), specs=spec_dict(parts.model))


def _natural_model(config: RunConfig, parts: Assembly) -> ModelConfig:
    return config.model.model_copy(update={"vocab_size": parts.model.vocab_size})


def _started_weights(config: RunConfig, parts: Assembly, console: Console) -> Nested:
    start, abstract = config.init_from, parts.state.params
    natural = unfolded_shapes(abstract)
    if isinstance(start, RunStart):
        params = start.weights(natural)
    else:
        assert start is not None
        shardings = jax.tree.map(lambda leaf: leaf.sharding, natural)
        params = start.weights(
            _natural_model(config, parts),
            specs=spec_dict(parts.model),
            shardings=shardings,
            on_progress=console.weights_progress(num_bytes_read(natural, shardings)),
        )
        console.close()
    return folded(params, abstract)
