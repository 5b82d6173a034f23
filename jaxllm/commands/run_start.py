"""Training that starts from a run: its weights, but for the head if another one is wanted."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from pydantic import TypeAdapter

from jaxllm.checkpoints.start import RunStart
from jaxllm.config import RunConfig
from jaxllm.models import ModelConfig, with_vocabulary
from jaxllm.models.other_head import has_same_head, is_of_head, shared_paths
from jaxllm.nn.param import Nested, spec_dict
from jaxllm.parallel.layouts import Layout, weight_shardings


def saved_shapes(
    start: RunStart, config: RunConfig, natural: Nested, *, layout: Layout, vocab_size: int
) -> Nested:
    """Shapes and shardings of the weights that the run should have, all of them.

    natural: those of the network that is trained, which are the same but for the head.
    """
    theirs: Any = TypeAdapter(ModelConfig).validate_python(start.model())
    if _has_its_head(config, theirs) or theirs.type != config.model.type:
        return natural
    theirs = with_vocabulary(theirs, vocab_size)
    specs = spec_dict(jax.eval_shape(lambda: theirs.build(jax.random.key(0), vocab_size)))
    shardings = flatten_dict(weight_shardings(layout, specs))
    there, ours = flatten_dict(specs), flatten_dict(natural)
    own = {
        path: jax.ShapeDtypeStruct(spec.shape, jnp.float32, sharding=shardings[path])
        for path, spec in there.items()
        if is_of_head(path)
    }
    shared = {path: ours[path] for path in shared_paths(ours, there)}
    return unflatten_dict({**own, **shared})


def new_of(natural: Nested, saved: Nested, config: RunConfig, start: RunStart) -> list[str]:
    """Paths of the weights that the network has in its head, and the run has not."""
    theirs: Any = TypeAdapter(ModelConfig).validate_python(start.model())
    if _has_its_head(config, theirs):
        return []
    ours = flatten_dict(natural)
    shared = shared_paths(ours, flatten_dict(saved))
    return [".".join(path) for path in ours if path not in shared]


def _has_its_head(config: RunConfig, theirs: Any) -> bool:
    assert config.init_from is not None
    return has_same_head(config.model, theirs) and not config.init_from.has_new_head


def without_old_head(weights: Nested, wanted: Nested, new: list[str]) -> tuple[Nested, list[str]]:
    """The weights of a run that the network takes, and the paths of those that it leaves.

    wanted: those of the network, quantised as the run's weights are by now.
    """
    ours = flatten_dict(wanted)
    found: Mapping = flatten_dict(weights)
    kept = {
        path: leaf for path, leaf in found.items() if path in ours and ".".join(path) not in new
    }
    return unflatten_dict(kept), [".".join(path) for path in found if path not in kept]
