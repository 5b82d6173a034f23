"""A run of an encoder-decoder that tells hidden spans: the same command, the same promises."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxllm.commands.assembly import assemble, check_devices, known_num_ids
from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.evaluate import evaluate, evaluate_tasks
from jaxllm.commands.export import export_model
from jaxllm.commands.generate import generate
from jaxllm.commands.plan_workload import workload_of
from jaxllm.commands.step_flops import flops_per_token
from jaxllm.config import load_config
from jaxllm.data.batch import batch_shapes
from jaxllm.hf.start import HfStart

from . import runs
from .interruptions import run_with_crash

MODEL = (
    "model={type: encoder_decoder, num_layers: 1, num_decoder_layers: 2, embed_dim: 32, "
    "num_heads: 2, head_dim: 8, mlp_dim: 32, num_buckets: 8, query_scale: 1.0, dropout: 0.1, "
    "activation: gelu}"
)
SPANS = "objective={type: span_corruption, rate: 0.3, num_sentinels: 4}"
REST = ("samples.every=null", "training.ema=null")
T5 = (MODEL, SPANS, *REST)


@pytest.fixture(scope="module")
def spans(text):
    """The run that nothing stopped. Read it only."""
    run_dir = text.parent / "spans"
    assert runs.start(text, run_dir, *T5) == 0
    return run_dir


@pytest.mark.slow
def test_resumed_it_is_the_uninterrupted_run(text, spans, tmp_path):
    run_dir = run_with_crash(5, text, tmp_path / "run", *T5)
    runs.assert_same_run(run_dir, spans, step=6)


@pytest.mark.slow
def test_its_score_is_the_same_again_and_counts_no_bytes(spans):
    summary = json.loads((spans / "summary.json").read_text())
    assert summary["validation_bits_per_byte"] is None
    assert summary["sample"] == ""
    scores = evaluate(spans)
    nll, count = (
        sum(getattr(score, key) for score in scores.values()) for key in ("nll", "num_tokens")
    )
    # The same sums over the same devices: float32 rounding of other batch sizes.
    assert nll / count == pytest.approx(summary["validation_loss"], rel=1e-6)


@pytest.mark.slow
def test_it_is_exported_as_the_t5_that_it_is(spans, tmp_path):
    export_model(spans, tmp_path / "out", step=None, dtype="float32")
    model = HfStart(path=str(tmp_path / "out")).model()
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["model_type"] == "t5"
    assert model["num_decoder_layers"] == 2
    # 257 bytes and the delimiter, 4 sentinels, filled up to whole tiles.
    assert model["vocab_size"] == 320


@pytest.mark.slow
def test_it_continues_no_text(spans, monkeypatch):
    with pytest.raises(ValueError, match=r"of type encoder_decoder, which continues no text"):
        generate(spans, ["the "], sampling={})
    monkeypatch.setattr("jaxllm.commands.evaluate.find_tasks", lambda names, folder: None)
    with pytest.raises(ValueError, match=r"objective\.type=span_corruption, which does not tell"):
        evaluate_tasks(spans, ["hellaswag"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((MODEL, *REST), r"causal_lm trains model\.type=decoder, but model\.type=encoder_decoder"),
        ((SPANS, *REST), r"span_corruption trains model\.type=encoder_decoder, but model\.type="),
        ((*T5, "samples.every=3"), r"samples\.every is given, but a model of type encoder_decoder"),
        ((*T5, "objective.num_sentinels=2"), r"has 3 hidden spans; raise num_sentinels"),
        ((MODEL, "objective.type=seq2seq", *REST), r"seq2seq does not read; give one of type tra"),
        (
            (
                "objective.type=prefix_lm",
                "model.latent={kv_rank: 8, plain_dim: 8, rope_dim: 4, value_dim: 8}",
            ),
            r"model\.latent sees no token of a prefix before its turn",
        ),
        (
            ("objective.type=prefix_lm", "evaluation.compare_xz=true"),
            r"evaluation\.compare_xz is given, but it takes the likelihood of whole texts",
        ),
    ],
)
def test_what_does_not_fit_is_refused(text, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(text, overrides)


def test_what_is_not_there_for_it_is_said(text):
    config = load_config(text, T5)
    with pytest.raises(ValueError, match=r"model\.type is encoder_decoder and objective\.type is"):
        workload_of(config)
    with pytest.raises(ValueError, match=r"parallel\.context cuts rows for decoders only"):
        check_devices(load_config(text, [*T5, "parallel.context=2"]))
    prefix = ("objective.type=prefix_lm", "parallel.context=2")
    with pytest.raises(ValueError, match=r"prefixes that are seen as a whole; set parallel\.con"):
        check_devices(load_config(text, prefix))


def test_the_step_is_compiled_for_the_batches_that_it_gets(text):
    config = load_config(text, T5)
    rows = config.objective.arranged(batch_shapes(8, 32))
    said = abstract_batch(config)
    assert said == rows
    assert said["encoder_tokens"].shape == (8, 32 - 10 + 3 + 1)
    assert said["targets"].shape == (8, 10 + 3 + 1)


def test_the_sentinels_of_a_published_tokenizer_are_counted_once(text):
    folder = Path(__file__).parents[1] / "golden" / "hf_tokenizers" / "t5_pieces"
    tokenizer = f"data.tokenizer={{type: hf, path: {folder}}}"
    config = load_config(text, [*T5, tokenizer, "objective.num_sentinels=100"])
    assert known_num_ids(config) == 240
    assert known_num_ids(load_config(text, T5)) == 257 + 4


def test_flops_are_of_the_tokens_that_meet_a_weight(text):
    config = load_config(text, T5)
    layout = config.parallel.build(jax.devices()[:1])
    parts = assemble(config, layout=layout, vocab_size=261)
    source, target = 26, 14
    attention, mlp = 4 * 32 * 16, 3 * 32 * 32
    encoder = attention + mlp
    # Of the second text only keys and values are made of the source.
    decoder = 2 * (attention + attention // 2 + mlp) + 32 * 320
    matmuls = source * (encoder + 2 * attention // 2) + target * decoder
    scores = 16 * (source**2 + 2 * target * (target + source))
    expected = 6 * matmuls + 12 * scores
    assert flops_per_token(config, parts) * 32 == pytest.approx(expected)
    assert parts.num_matmul_params == encoder + 2 * attention // 2 + decoder


PREFIX = ("objective.type=prefix_lm", "training.ema=null")


@pytest.mark.slow
def test_prefixes_are_learned_by_a_decoder_that_then_sees_its_prompts(text, tmp_path):
    """Text is generated behind prompts that are seen as a whole."""
    assert runs.start(text, tmp_path / "run", *PREFIX) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation_bits_per_byte"] is None
    assert np.isfinite(summary["validation_loss"])
    texts = generate(tmp_path / "run", ["the "], sampling={"max_tokens": 4, "temperature": 0})
    assert summary["sample"] == "the " + texts[0]


@pytest.mark.slow
def test_prefixes_are_learned_by_an_encoder_decoder(text, tmp_path):
    assert runs.start(text, tmp_path / "run", MODEL, *PREFIX, "samples.every=null") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert np.isfinite(summary["validation_loss"])
