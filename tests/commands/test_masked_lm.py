"""A run of an encoder that tells hidden tokens: the same command, the same promises."""

import json

import pytest

from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.generate import generate
from jaxllm.config import load_config

from . import runs
from .interruptions import run_with_crash

ENCODER = (
    "model={type: encoder, num_layers: 2, embed_dim: 32, num_heads: 2, mlp_dim: 32, "
    "max_length: 32, dropout: 0.1}",
    "objective={type: masked_lm, rate: 0.3}",
    "samples.every=null",
    "training.ema=null",
)


@pytest.fixture(scope="module")
def masked(text):
    """The run that nothing stopped. Read it only."""
    run_dir = text.parent / "masked"
    assert runs.start(text, run_dir, *ENCODER) == 0
    return run_dir


@pytest.mark.slow
def test_resumed_it_is_the_uninterrupted_run(text, masked, tmp_path):
    run_dir = run_with_crash(5, text, tmp_path / "run", *ENCODER)
    runs.assert_same_run(run_dir, masked, step=6)


def test_its_score_is_the_same_again_and_counts_no_bytes(masked):
    summary = json.loads((masked / "summary.json").read_text())
    assert summary["validation_bits_per_byte"] is None
    assert summary["sample"] == ""
    scores = evaluate(masked)
    nll, count = (
        sum(getattr(score, key) for score in scores.values()) for key in ("nll", "num_tokens")
    )
    # The same sums over the same devices: float32 rounding of other batch sizes.
    assert nll / count == pytest.approx(summary["validation_loss"], rel=1e-6)


def test_it_writes_no_text(masked):
    with pytest.raises(ValueError, match=r"a model of type encoder, which continues no text"):
        generate(masked, ["the "], sampling={})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.type=causal_lm", r"objective\.type=causal_lm trains model\.type=decoder"),
        ("model.type=decoder", r"objective\.type=masked_lm trains model\.type=encoder"),
        ("model.head=pooler", r"objective\.type=masked_lm needs model\.head=masked_lm"),
        (
            "samples.every=3",
            r"samples\.every is given, but a model of type encoder cont",
        ),
    ],
)
def test_what_does_not_fit_an_encoder_is_refused(text, override, message):
    overrides = [part for part in ENCODER if not part.startswith(override.split("=")[0] + "=")]
    if override == "objective.type=causal_lm":
        overrides = [part for part in overrides if not part.startswith("objective")]
    if override == "model.type=decoder":
        overrides = [part for part in overrides if not part.startswith("model")]
        overrides.append("model={num_layers: 2, embed_dim: 32, num_heads: 2}")
        override = "objective.rate=0.2"
    with pytest.raises(ValueError, match=message):
        load_config(text, [*overrides, override])
