"""What a config stands for: how much it computes, and what a batch of it is."""

import jax
import pytest

from jaxllm.commands.assembly import assemble
from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.step_flops import flops_per_token
from jaxllm.config import parse_config
from jaxllm.parallel.mesh import ParallelConfig

VOCAB = 64
RAW = {
    "run_dir": "run",
    "model": {
        "type": "encoder_decoder",
        "num_layers": 1,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_dim": 32,
    },
    "objective": {"type": "prefix_lm"},
    "data": {
        "sequence_length": 16,
        "global_batch_size": 8,
        "datasets": {"ids": {"type": "synthetic", "vocab_size": VOCAB}},
    },
    "optim": {"type": "adamw"},
    "training": {"steps": 2},
}


TOWERS = {
    "type": "two_towers",
    "projection_dim": 8,
    "text": {
        "num_layers": 1,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_dim": 32,
        "max_length": 16,
        "is_tied": True,
    },
    "vision": {
        "image_size": 8,
        "patch_size": 4,
        "num_layers": 2,
        "embed_dim": 32,
        "num_heads": 2,
        "mlp_dim": 32,
        "head": "none",
    },
}


def flops(frozen: tuple[str, ...], **changed: dict) -> float:
    """Of a token of the run, with these weights staying as they are."""
    config = parse_config({**RAW, **changed}, origin="test")
    # Without init_from, whose weights nothing here reads.
    training = config.training.model_copy(update={"frozen": frozen})
    config = config.model_copy(update={"training": training})
    layout = ParallelConfig(layout="replicated").build(jax.devices()[:1])
    return flops_per_token(config, assemble(config, layout=layout, vocab_size=VOCAB))


def test_frozen_weights_of_an_encoder_decoder_have_no_gradient():
    """Two FLOPs less for each number that a token of source or target meets: 4 D^2 + 3 D F."""
    less = flops(()) - flops(("encoder",))
    assert less == pytest.approx(2 * (4 * 32 * 32 + 3 * 32 * 32))


def test_a_frozen_tower_of_images_saves_what_its_patches_meet():
    """Two FLOPs less for each number, 5 times for the 16 tokens of the text."""
    changed = {
        "model": TOWERS,
        "objective": {"type": "image_text"},
        "data": {**RAW["data"], "datasets": {}},
    }
    less = flops((), **changed) - flops(("vision",), **changed)
    assert less == pytest.approx(2 * (2 * (4 + 2) * 32 * 32 + 3 * 4 * 4 * 32) * 5 / 16)


def test_pairs_of_texts_are_two_rows():
    """One text is classified by the same network; its head of 1 x 32 is counted for each token."""
    encoder = {"type": "encoder", "num_layers": 1, "embed_dim": 32, "num_heads": 2}
    data = {**RAW["data"], "datasets": {}}
    pair, one = (
        flops((), model={**encoder, **head}, data=data, objective={"type": kind})
        for kind, head in (
            ("contrastive", {"head": "none"}),
            ("sequence_regression", {"head": "sequence", "num_labels": 1}),
        )
    )
    pooler = 32 * 32
    assert pair == pytest.approx(2 * (one - 6 * (pooler + 32)))


def test_a_batch_of_examples_needs_a_dataset():
    raw = {**RAW, "objective": {"type": "seq2seq"}, "data": {**RAW["data"], "datasets": {}}}
    with pytest.raises(ValueError, match=r"data\.datasets is empty, but objective\.type=seq2seq"):
        abstract_batch(parse_config(raw, origin="test"))
