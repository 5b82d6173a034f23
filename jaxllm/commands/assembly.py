"""What a config stands for, without allocating anything: shapes, shardings and functions."""

from typing import Any, NamedTuple

import jax
import optax

from jaxllm.config import RunConfig
from jaxllm.data import Data
from jaxllm.data.vocabulary import known_vocab_size
from jaxllm.models import Decoder, DecoderConfig
from jaxllm.nn.param import Nested, param_dict, spec_dict
from jaxllm.nn.stack import fold, fold_specs
from jaxllm.objectives import CausalLm, Vocabulary
from jaxllm.objectives.base import Arrange
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

    model: the network with abstract weights. specs: its weights' declarations. state: the
    training state's shapes, dtypes and shardings. loss: the objective of (params, batch, keys).
    """

    layout: Layout
    model: Any
    specs: Nested
    optimizer: optax.GradientTransformation
    loss: LossFn
    state: TrainState

    @property
    def num_params(self) -> int:
        """Number of weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))

    @property
    def num_active_params(self) -> int:
        """Weights that a token meets: of experts, as many as it chooses."""
        return sum(self.model.config.active_size(spec) for _, spec in weight_items(self.specs))

    @property
    def num_matmul_params(self) -> int:
        """Weights that a token is multiplied by: a tied embedding, but no looked-up one.

        Of experts, as many as a token chooses.
        """
        is_tied = getattr(self.model, "out", None) is None
        size = 0
        for path, spec in weight_items(self.specs):
            is_matmul = spec.role in ("hidden", "output") or (is_tied and path == "embed.table")
            if is_matmul:
                size += self.model.config.active_size(spec)
        return size


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
    if not isinstance(config.model, DecoderConfig) and layout.degree("length") > 1:
        raise ValueError(
            f"parallel.context cuts rows for decoders only, and model.type is {config.model.type}; "
            "set parallel.context=1"
        )
    objective = config.objective
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
    return None if size is None else config.objective.num_ids(Vocabulary(size, ()))


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
    model = jax.eval_shape(lambda key: config.model.build(key, vocab_size), key)
    specs = fold_specs(spec_dict(model), layout.pipeline.num_rounds if layout.pipeline else 1)
    check_weights(layout, specs)
    check_weights(layout.for_optimizer(), specs)
    optimizer = config.optim.build(specs, total_steps=config.training.steps)
    abstract = jax.eval_shape(
        lambda params: _first_state(fold(params, specs), optimizer, config.training),
        param_dict(model),
    )
    return Assembly(
        layout=layout,
        model=model,
        specs=specs,
        optimizer=optimizer,
        loss=make_loss(config.objective, model, layout),
        state=abstract_with_shardings(abstract, state_shardings(abstract, specs, layout)),
    )


def initial_state(config: RunConfig, parts: Assembly) -> TrainState:
    """The state before the first step, on the devices."""

    def make(key: jax.Array) -> TrainState:
        model = config.model.build(key, parts.model.vocab_size)
        return state_of(fold(param_dict(model), parts.specs), config, parts)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, parts.state)
    return init_sharded(make, jax.random.key(config.seed), shardings)


def state_of(params: Nested, config: RunConfig, parts: Assembly) -> TrainState:
    """The state before the first step of training that starts from these weights."""
    return _first_state(params, parts.optimizer, config.training)


def _first_state(
    params: Nested, optimizer: optax.GradientTransformation, training: TrainingConfig
) -> TrainState:
    has_guard = training.anomalies is not None
    return new_state(params, optimizer, training.ema, has_guard=has_guard)


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
        specs=parts.specs,
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


def arrangement(config: RunConfig, data: Data, *, seed: int) -> Arrange | None:
    """What the objective makes of rows of the data; None where it reads them as they are.

    ValueError for an objective that needs to know more of the tokens than the tokenizer says.
    """
    return config.objective.arrangement(_vocabulary(data), seed=seed)


def num_ids(config: RunConfig, data: Data) -> int:
    """Ids that the data and the objective use."""
    return config.objective.num_ids(_vocabulary(data))


def _vocabulary(data: Data) -> Vocabulary:
    return Vocabulary(data.vocab_size, *data.kinds)
