"""The state before the first step: new weights, a published model's, or another run's."""

from functools import partial

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.checkpoints.start import RunStart
from jaxllm.commands.assembly import Assembly, initial_state, network, state_of
from jaxllm.commands.console import Console
from jaxllm.commands.run_start import new_of, saved_shapes, without_old_head
from jaxllm.commands.saved_state import SavedState, folded, unfolded_shapes
from jaxllm.commands.start_classes import check_classes
from jaxllm.config import RunConfig
from jaxllm.hf.weights import num_bytes_read
from jaxllm.models import ModelConfig, with_vocabulary
from jaxllm.nn.adapters import is_adapter, without_adapters
from jaxllm.nn.param import Nested, param_dict, spec_dict
from jaxllm.nn.parts import joined, part_like
from jaxllm.nn.quantised import quantiser, unquantised
from jaxllm.training.state import TrainState


def starting_state(
    config: RunConfig, parts: Assembly, saved: SavedState, console: Console
) -> TrainState:
    """The state to go on from: the newest saved one, or else the first.

    ValueError for weights that do not fit the model, or are not those the run began with.
    """
    if not saved.start:
        state = first_state(config, parts, saved, console)
        saved.check_frozen(state.frozen, origin=origin(config))
        return state
    frozen = frozen_weights(config, parts, console)
    saved.check_frozen(frozen, origin=origin(config))
    return saved.restore(parts, frozen)


def first_state(
    config: RunConfig, parts: Assembly, saved: SavedState, console: Console
) -> TrainState:
    """As the config's init_from says, or with the weights that were imported into the run folder.

    ValueError for weights that do not fit the model.
    """
    if saved.has_weights:
        if parts.frozen is not None:
            raise ValueError(
                f"{config.run_dir} holds an imported model, whose weights a run does not keep that "
                "leaves them as they are; give this folder as init_from={type: run, path: ...}, "
                "and another run_dir"
            )
        params = saved.restore_weights(parts)
        console.say("starting from the weights that were imported into the run folder")
    elif config.init_from is None:
        console.say("training from scratch")
        return initial_state(config, parts)
    else:
        params = _with_new(_started_weights(config, parts, console), config, parts, console)
        params = folded(params, _weights(parts))
        console.say(f"starting from the weights of {origin(config)}")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state)
    make = partial(state_of, config=config, parts=parts)
    return jax.jit(make, out_shardings=shardings, donate_argnums=0)(params)


def check_start(config: RunConfig, parts: Assembly) -> None:
    """ValueError for weights of init_from that do not fit the run, before any are read."""
    start = config.init_from
    if start is None:
        return
    if isinstance(start, RunStart):
        natural = _published_shapes(parts)
        start.check(_saved_shapes(start, config, parts, natural))
    else:
        specs = _published_specs(parts)
        start.check(_natural_model(config, parts), specs=specs)
    check_classes(start, config)


def frozen_weights(config: RunConfig, parts: Assembly, console: Console) -> Nested | None:
    """The weights that a run does not save, from init_from; None where it saves all.

    ValueError, as for `check_start`.
    """
    if parts.frozen is None:
        return None
    started = part_like(_started_weights(config, parts, console), parts.frozen)
    return folded(started, parts.state.frozen)


def origin(config: RunConfig) -> str:
    """Where the weights come from that training starts with."""
    return "" if config.init_from is None else config.init_from.path


def _weights(parts: Assembly) -> Nested:
    """All weights as shapes with their shardings, trained or not."""
    return joined(parts.state.params, parts.state.frozen)


def _published_shapes(parts: Assembly, *, is_on_host: bool = False) -> Nested:
    """The weights of the network by itself, in float32 and stacked in their natural order.

    is_on_host: whether those that will be quantised come to lie in host memory.
    """
    shapes = unfolded_shapes(without_adapters(_weights(parts)))
    return unquantised(shapes, is_on_host=is_on_host)


def _published_specs(parts: Assembly) -> Nested:
    return unquantised(without_adapters(spec_dict(parts.model)))


def _natural_model(config: RunConfig, parts: Assembly) -> ModelConfig:
    return with_vocabulary(config.model, parts.model.vocab_size)


def _started_weights(config: RunConfig, parts: Assembly, console: Console) -> Nested:
    """The weights that init_from has, stacked in their natural order.

    ValueError where it lacks some that are not trained.
    """
    start = config.init_from
    natural = _published_shapes(parts)
    convert = quantiser(unfolded_shapes(_weights(parts)))
    if isinstance(start, RunStart):
        # A run's weights come all at once: on devices they might not fit before they are quantised.
        on_host = _published_shapes(parts, is_on_host=True)
        saved = _saved_shapes(start, config, parts, on_host)
        new = new_of(natural, saved, config, start)
        _check_new_are_trained(new, parts, start.path)
        wanted = unfolded_shapes(without_adapters(_weights(parts)))
        params, left = without_old_head(start.weights(saved, convert=convert), wanted, new)
        if left:
            console.say(f"left out of {start.path}: {', '.join(left)}")
        return params
    assert start is not None
    shardings = jax.tree.map(lambda leaf: leaf.sharding, natural)
    model, specs = _natural_model(config, parts), _published_specs(parts)
    _check_new_are_trained(start.new_weights(model, specs=specs), parts, start.path)
    params = start.weights(
        model,
        specs=specs,
        shardings=shardings,
        on_progress=console.weights_progress(num_bytes_read(natural, shardings)),
        convert=convert,
    )
    console.close()
    return params


def _saved_shapes(start: RunStart, config: RunConfig, parts: Assembly, natural: Nested) -> Nested:
    size = parts.model.vocab_size
    return saved_shapes(start, config, natural, layout=parts.layout, vocab_size=size)


def _check_new_are_trained(new: list[str], parts: Assembly, path: str) -> None:
    """ValueError where weights that init_from lacks would not be trained."""
    frozen = {".".join(path) for path in flatten_dict(unquantised(parts.frozen or {}))}
    idle = sorted(frozen & set(new))
    if idle:
        raise ValueError(
            f"init_from.path: {path} does not have {', '.join(idle)}, which would stay as they "
            "happen to begin; train them: name them in adapter.also_trained, or leave them out of "
            "training.frozen"
        )


def _with_new(params: Nested, config: RunConfig, parts: Assembly, console: Console) -> Nested:
    """The weights with those that are new as they are where training starts from nothing."""
    wanted = flatten_dict(unfolded_shapes(_weights(parts)))
    placed = {path: leaf.sharding for path, leaf in wanted.items()}
    for path in flatten_dict(params):
        del placed[path]
    if not placed:
        return params
    names = [name for name in map(".".join, placed) if not is_adapter(name)]
    if names:
        console.say(f"new weights: {', '.join(names)}")

    def make(key: jax.Array) -> dict:
        drawn = flatten_dict(param_dict(network(config, key, parts.model.vocab_size)))
        return {path: drawn[path] for path in placed}

    drawn = jax.jit(make, out_shardings=placed)(jax.random.key(config.seed))
    return unflatten_dict({**flatten_dict(params), **drawn})
