"""What a config stands for, without allocating anything: shapes, shardings and functions."""

import math
from typing import Any, NamedTuple

import jax
import optax

from jaxllm.config import RunConfig
from jaxllm.data.vocabulary import known_kinds, known_vocab_size
from jaxllm.models import Decoder, DecoderConfig
from jaxllm.models.encoder import Encoder
from jaxllm.nn.adapters import is_adapter
from jaxllm.nn.param import Nested, param_dict, spec_dict
from jaxllm.nn.parts import matching, part_like, split
from jaxllm.nn.quantised import unquantised, with_placed_scales
from jaxllm.nn.stack import fold, fold_specs
from jaxllm.objectives import CausalLm, PrefixLm, Vocabulary
from jaxllm.parallel.layouts import (
    Layout,
    check_batch,
    check_length,
    check_weights,
    weight_items,
)
from jaxllm.parallel.pipeline import check_pipeline
from jaxllm.parallel.shard import batch_sharding
from jaxllm.training.state import (
    TrainState,
    abstract_with_shardings,
    init_sharded,
    new_state,
    state_shardings,
)
from jaxllm.training.step import LossFn, TrainingConfig, make_loss, make_train_step


class Assembly(NamedTuple):
    """The abstract parts of a run.

    model: the network with abstract weights, and its adapters. specs: its weights' declarations;
    trained, frozen: of those that are trained, and of those that are not, None without any. state:
    the training state's shapes, dtypes and shardings. loss: the objective of (all weights, batch,
    keys).
    """

    layout: Layout
    model: Any
    specs: Nested
    trained: Nested
    frozen: Nested | None
    optimizer: optax.GradientTransformation
    loss: LossFn
    state: TrainState

    @property
    def num_params(self) -> int:
        """Number of weights."""
        return sum(math.prod(spec.shape) for spec in jax.tree.leaves(unquantised(self.specs)))

    @property
    def num_trained_params(self) -> int:
        """Number of weights that training changes."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    @property
    def num_active_params(self) -> int:
        """Weights that a token meets: of experts, as many as it chooses."""
        specs = unquantised(self.specs)
        return sum(self.model.config.active_size(spec) for _, spec in weight_items(specs))

    @property
    def num_matmul_params(self) -> int:
        """Weights that a token is multiplied by, of all halves and towers together."""
        return sum(self.matmul_sizes.values())

    @property
    def matmul_sizes(self) -> dict[str, int]:
        """Path of each weight that tokens are multiplied by -> how many of its numbers one meets.

        A tied embedding is among them, but no looked-up one; of experts, those a token chooses.
        """
        is_tied = getattr(self.model, "out", None) is None
        if isinstance(self.model, Encoder):
            is_tied = self.model.vocabulary_head is not None
        return {
            path: self.model.config.active_size(spec)
            for path, spec in weight_items(self.specs)
            if spec.role in ("hidden", "output") or (is_tied and path == "embed.table")
        }


def check_devices(config: RunConfig, devices: list[jax.Device] | None = None) -> Layout:
    """The layout on `devices`, by default this machine's.

    ValueError where the mesh does not divide batches, rows or layers.
    """
    layout = config.parallel.build(devices)
    parts = config.training.num_microbatches
    rows = config.data.global_batch_size
    check_batch(layout, rows, key="data.global_batch_size")
    if parts > 1:
        check_batch(layout, rows // parts, key="data.global_batch_size / training.num_microbatches")
    check_length(layout, config.data.sequence_length, key="data.sequence_length")
    for num_layers in config.model.stack_depths:
        check_pipeline(layout, num_layers=num_layers, rows=rows // parts)
    objective = config.objective
    if layout.degree("length") > 1:
        if not isinstance(config.model, DecoderConfig):
            raise ValueError(
                "parallel.context cuts rows for decoders only, and model.type is "
                f"{config.model.type}; set parallel.context=1"
            )
        if isinstance(objective, PrefixLm):
            raise ValueError(
                "parallel.context cuts rows, and objective.type=prefix_lm has prefixes that are "
                "seen as a whole; set parallel.context=1"
            )
    num_chunks = objective.num_chunks if isinstance(objective, CausalLm) else 1
    chunks = num_chunks * layout.degree("length")
    if config.data.sequence_length % chunks:
        raise ValueError(
            f"objective.num_chunks={num_chunks} does not divide the "
            f"{config.data.sequence_length} positions of data.sequence_length on "
            f"{layout.degree('length')} devices of parallel.context; make it a divisor"
        )
    return layout


def stated_vocab_size(config: RunConfig) -> int:
    """Ids of the data, as far as the config says, or as many as the model has.

    ValueError if only the prepared data would tell.
    """
    size = known_num_ids(config) or config.model.vocab_size
    if size is None:
        raise ValueError(
            "model.vocab_size: it is null, and only the prepared data would tell the size of the "
            "vocabulary; give it, as model.vocab_size=32000"
        )
    return size


def known_num_ids(config: RunConfig) -> int | None:
    """Ids of data and objective, as far as the config alone says."""
    size = known_vocab_size(config.data)
    if size is None:
        return None
    return config.objective.num_ids(Vocabulary(size, *known_kinds(config.data)))


def check_sizes(config: RunConfig, layout: Layout) -> None:
    """ValueError for sizes that the mesh does not divide, as far as the config alone tells.

    Before raw text is tokenised, which may take hours.
    """
    size = known_num_ids(config) or config.model.vocab_size
    if size is not None:
        assemble(config, layout=layout, vocab_size=size)


def assemble(config: RunConfig, *, layout: Layout, vocab_size: int) -> Assembly:
    """The parts of a run; ValueError for sizes that do not fit the data or the mesh.

    vocab_size: ids that data and objective use; the model may have a few rows more.
    """
    vocab_size = config.model.padded_vocab_size(vocab_size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    model = jax.eval_shape(lambda key: network(config, key, vocab_size), key)
    specs = fold_specs(spec_dict(model), layout.pipeline.num_rounds if layout.pipeline else 1)
    check_weights(layout, unquantised(specs))
    specs = with_placed_scales(layout, specs)
    trained, frozen = _parts(config, specs)
    check_weights(layout.for_optimizer(), trained)
    optimizer = config.optim.build(trained, total_steps=config.training.steps, frozen=frozen)
    abstract = jax.eval_shape(
        lambda params: _first_state(
            fold(params, specs), (trained, frozen), optimizer, config.training
        ),
        param_dict(model),
    )
    shardings = state_shardings(abstract, trained, layout, frozen=frozen)
    return Assembly(
        layout=layout,
        model=model,
        specs=specs,
        trained=trained,
        frozen=frozen,
        optimizer=optimizer,
        loss=make_loss(config.objective, model, layout),
        state=abstract_with_shardings(abstract, shardings),
    )


def network(config: RunConfig, key: jax.Array, vocab_size: int) -> Any:
    """A new network with its adapters, if it has any."""
    model = config.model.build(key, vocab_size)
    if config.adapter is not None:
        config.adapter.attach(jax.random.fold_in(key, _ADAPTER_KEY), model)
    return model


_ADAPTER_KEY = 0x10AD  # none of a network's own


def _parts(config: RunConfig, specs: Nested) -> tuple[Nested, Nested | None]:
    """The declarations of the weights that are trained, and of those that stay as they are.

    ValueError for patterns that match nothing, or everything.
    """
    paths = {path for path, _ in weight_items(specs)}
    if config.adapter is None:
        trained = paths - matching(config.training.frozen, paths, key="training.frozen")
        if not trained:
            raise ValueError(
                "training.frozen matches all weights, and nothing is left to train; leave some out"
            )
    else:
        trained = {path for path in paths if is_adapter(path)}
        # Scales of quantised weights are no weights, and no pattern matches them.
        own = {path for path, _ in weight_items(unquantised(specs))} - trained
        trained |= matching(config.adapter.also_trained, own, key="adapter.also_trained")
    if trained == paths:
        return specs, None
    return split(specs, trained)


def initial_state(config: RunConfig, parts: Assembly) -> TrainState:
    """The state before the first step, on the devices."""

    def make(key: jax.Array) -> TrainState:
        model = network(config, key, parts.model.vocab_size)
        return state_of(fold(param_dict(model), parts.specs), config, parts)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state)
    return init_sharded(make, jax.random.key(config.seed), shardings)


def state_of(params: Nested, config: RunConfig, parts: Assembly) -> TrainState:
    """The state before the first step of training that starts from these weights, all of them."""
    return _first_state(params, (parts.trained, parts.frozen), parts.optimizer, config.training)


def _first_state(
    params: Nested,
    parts: tuple[Nested, Nested | None],
    optimizer: optax.GradientTransformation,
    training: TrainingConfig,
) -> TrainState:
    trained, frozen = parts
    return new_state(
        part_like(params, trained),
        optimizer,
        training.ema,
        has_guard=training.anomalies is not None,
        frozen=None if frozen is None else part_like(params, frozen),
    )


def lower_step(
    config: RunConfig, parts: Assembly, example_batch: dict[str, Any]
) -> jax.stages.Lowered:
    """The training step as a program that donates the state, ready to be compiled.

    example_batch: this host's rows of any batch; only shapes and dtypes are read.
    ValueError for options that do not work together or on this platform.
    """
    step = make_train_step(
        parts.loss,
        parts.optimizer,
        specs=parts.trained,
        layout=parts.layout,
        seed=config.seed,
        schedule=config.optim.schedule_fn(config.training.steps),
        num_microbatches=config.training.num_microbatches,
        ema=config.training.ema,
        rebalance=parts.model.rebalance if isinstance(parts.model, Decoder) else None,
        anomalies=config.training.anomalies,
    )
    rows = config.data.global_batch_size
    batch = {
        name: jax.ShapeDtypeStruct(
            (rows, *field.shape[1:]),
            jax.dtypes.canonicalize_dtype(field.dtype),
            sharding=batch_sharding(parts.layout, field.ndim),
        )
        for name, field in example_batch.items()
    }
    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, parts.layout.sharding()))
    return jitted.lower(parts.state, batch)
