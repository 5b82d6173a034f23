"""A few training steps of a tiny decoder, on any layout."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from jaxllm.data.batch import unchanged
from jaxllm.models import Decoder
from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.objectives import (
    CausalLm,
    Contrastive,
    ImageClassification,
    MaskedLm,
    PrefixLm,
    QuestionAnswering,
    SequenceClassification,
    SpanCorruption,
    TokenClassification,
    Vocabulary,
)
from jaxllm.objectives.pixels import PixelConfig
from jaxllm.optim import AdamW, EmaConfig, Muon
from jaxllm.optim.schedules import Linear
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import global_batch
from jaxllm.training.state import init_sharded, new_state, state_shardings
from jaxllm.training.step import make_loss, make_train_step

ROWS, STEPS, TOTAL_STEPS = 16, 3, 100
EMA = EmaConfig(decay=0.9)
SCHEDULE = Linear(warmup_steps=1)

MOE = {
    "num_experts": 4,
    "expert_dim": 24,
    "num_shared_experts": 1,
    "scoring": "sigmoid",
    "balance_loss": 0.1,
    "z_loss": 0.01,
    "bias_rate": 0.01,
}

# Between them they have every kind of weight. Adam divides by the size of each gradient, so one
# that is nothing but rounding (the bias of keys, which softmax does not see) moves a weight as far
# as any other; this eps lets the step follow the gradient smoothly, and rounding stay rounding.
RECIPES = {
    "adamw": (tiny.config(qk_norm="head", dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "muon": (tiny.gpt2(dropout=0.1), Muon(adam_eps=1e-3, weight_decay=0.1)),
    "windows": (tiny.gemma(dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "latent": (tiny.deepseek(), AdamW(learning_rate=0.02, eps=1e-3)),
    "experts": (
        tiny.config(num_layers=1, is_gated=False, dropout=0.1, moe=MOE),
        AdamW(learning_rate=0.02, eps=1e-3),
    ),
    "masked": (tiny.bert(dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "classes": (
        tiny.bert(dropout=0.1, head="sequence", num_labels=3),
        AdamW(learning_rate=0.02, eps=1e-3),
    ),
    "spans": (tiny.t5(dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "prefixes": (tiny.config(num_layers=2, dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "pictures": (tiny.vit(dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "pairs": (tiny.bert(dropout=0.1), AdamW(learning_rate=0.02, eps=1e-3)),
    "tags": (
        tiny.bert(dropout=0.1, head="token", num_labels=3),
        AdamW(learning_rate=0.02, eps=1e-3),
    ),
    "answers": (tiny.bert(dropout=0.1, head="span"), AdamW(learning_rate=0.02, eps=1e-3)),
}
MASKED = MaskedLm(rate=0.4)
SPANS = SpanCorruption(rate=0.3, mean_span=2.0, num_sentinels=3)
VOCABULARY = Vocabulary(
    tiny.VOCAB,
    special_ids=(tiny.DELIMITER,),
    mask_id=1,
    sentinel_ids=(63, 62, 61),
    delimiter_id=tiny.DELIMITER,
)
OBJECTIVES = {
    "masked": MASKED,
    "spans": SPANS,
    "prefixes": PrefixLm(),
    "classes": SequenceClassification(),
    "pictures": ImageClassification(
        label_smoothing=0.1, pixels=PixelConfig(is_flipped=True, max_shift=1)
    ),
    "pairs": Contrastive(is_symmetric=True),
    "tags": TokenClassification(),
    "answers": QuestionAnswering(),
}
LAYOUTS = {
    "replicated": ParallelConfig(layout="replicated"),
    "data": ParallelConfig(layout="data"),
    "fsdp": ParallelConfig(layout="fsdp", data=2),
    "zero1": ParallelConfig(layout="zero1", data=2),
    "context": ParallelConfig(layout="fsdp", data=2, context=2),
    "ring": ParallelConfig(layout="fsdp", fsdp=2, context=2, tensor=2, context_attention="ring"),
    "ulysses": ParallelConfig(layout="fsdp", context=2, context_attention="ulysses"),
    "offloaded": ParallelConfig(layout="fsdp", data=2, offload_optimizer=True),
    "slices": ParallelConfig(layout="fsdp", slice=2),
    "fsdp_tensor": ParallelConfig(layout="fsdp", tensor=2),
}


class Run(NamedTuple):
    """A compiled step, its first state, and what it needs to go on."""

    layout: object
    specs: dict
    step: object
    state: object
    arrange: object


def one_device():
    """Everything on one device: what all layouts are compared with."""
    return ParallelConfig(layout="replicated").build(jax.devices()[:1])


def make(recipe, layout, *, num_microbatches=1, anomalies=None):
    """The recipe's step and first state on a layout; anomalies: of a step with a guard."""
    config, optim = RECIPES[recipe]
    optim = optim.model_copy(update={"schedule": SCHEDULE})
    model = tiny.abstract(config)
    specs = spec_dict(model)
    params = jax.tree.map(np.asarray, param_dict(tiny.decoder(config)))
    optimizer = optim.build(specs, total_steps=TOTAL_STEPS)

    def first(key):
        weights = jax.tree.map(jnp.asarray, params)
        return new_state(weights, optimizer, EMA, has_guard=anomalies is not None)

    key = jax.random.key(0)
    shardings = state_shardings(jax.eval_shape(first, key), specs, layout)
    step = make_train_step(
        make_loss(OBJECTIVES.get(recipe, CausalLm(z_loss=1e-3)), model, layout),
        optimizer,
        specs=specs,
        layout=layout,
        seed=7,
        schedule=optim.schedule_fn(TOTAL_STEPS),
        num_microbatches=num_microbatches,
        ema=EMA,
        rebalance=model.rebalance if isinstance(model, Decoder) else None,
        anomalies=anomalies,
    )
    jitted = tiny.fast(step, donate_argnums=0, out_shardings=(shardings, layout.sharding()))
    arrange = {
        "masked": MASKED.arrangement(VOCABULARY, seed=7),
        "spans": SPANS.arrangement(VOCABULARY, seed=7),
        "prefixes": PrefixLm().arrangement(VOCABULARY, seed=7),
        "classes": labelled,
        "pictures": pictured,
        "pairs": paired,
        "tags": tagged,
        "answers": answered,
    }
    return Run(
        layout,
        specs,
        jitted,
        init_sharded(first, key, shardings),
        arrange.get(recipe, unchanged),
    )


def labelled(rows):
    """The rows as texts of which each has a class, filled up to different lengths."""
    fields = ("tokens", "positions", "example_index")
    return {
        **{name: rows[name] for name in fields},
        "segment_ids": np.maximum(rows["loss_mask"], rows["positions"] == 0).astype(np.int32),
        "label": rows["targets"][:, 0] % 3,
        "loss_mask": rows["loss_mask"][:, 0],
    }


def tagged(rows):
    """The rows as texts of which about every second token is a word with a tag."""
    return {
        **labelled(rows),
        "label": rows["targets"] % 3,
        "loss_mask": rows["loss_mask"] * (rows["tokens"] % 2),
    }


def answered(rows):
    """The rows as texts of which each has an answer up to its end."""
    texts = labelled(rows)
    last = rows["tokens"].shape[1] - 1 - texts["segment_ids"][:, ::-1].argmax(axis=1)
    return {**texts, "label": np.stack([np.zeros_like(last), last], axis=-1).astype(np.int32)}


def pictured(rows):
    """Pictures of noise in place of the rows, of which each has a class."""
    random = np.random.default_rng(int(rows["example_index"][0]))
    return {
        "pixels": random.integers(0, 256, (len(rows["tokens"]), 8, 8, 3)).astype(np.uint8),
        "label": rows["targets"][:, 0] % 5,
        "loss_mask": rows["loss_mask"][:, 0],
        "example_index": rows["example_index"],
    }


def paired(rows):
    """The rows as texts, each with another one."""
    texts = labelled(rows)
    names = ("tokens", "segment_ids", "positions")
    others = {f"other_{name}": np.roll(texts[name], 1, axis=0) for name in names}
    return {**{name: texts[name] for name in (*names, "loss_mask", "example_index")}, **others}


def batch(seed):
    """Packed rows of which some are scored in part and one not at all."""
    scored = [tiny.LENGTH] * 10 + [5, 1, 0, 9, 12, 3]
    return tiny.batch(seed, rows=ROWS, scored=scored)


def train(run, *, seeds=range(STEPS)):
    """(last state on its devices, states after each step and metrics on the host)."""
    state, history = jax.tree.map(jnp.copy, run.state), []  # the step takes it over
    for seed in seeds:
        rows = run.arrange(batch(seed))
        state, metrics = run.step(state, global_batch(run.layout, rows, rows=ROWS))
        history.append(jax.device_get((state.params, state.ema, metrics)))
    return state, history
