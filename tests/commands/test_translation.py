"""A run that learns to write targets: resumed it is the run, it is scored, and it answers."""

import json

import pytest

from jaxllm.commands.predict import predict
from jaxllm.commands.report import report
from jaxllm.config import load_config

from . import runs
from .interruptions import run_with_crash

CONFIG = """
run_dir: {folder}/run
model: {{type: encoder_decoder, num_layers: 1, num_decoder_layers: 2, embed_dim: 32, num_heads: 2,
         mlp_dim: 32, num_buckets: 8, max_distance: 16, dropout: 0.1}}
objective: {{type: seq2seq, label_smoothing: 0.1}}
data:
  sequence_length: 16
  global_batch_size: 8
  root: {folder}/root
  tokenizer: {{type: byte}}
  datasets:
    pairs:
      type: translations
      source: {{type: table, paths: ["{folder}/pairs.tsv"]}}
      validation_every: 6
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant, warmup_steps: 2}}}}
training: {{steps: 6}}
checkpoints: {{every: 2, keep_latest: 2}}
evaluation: {{search: {{num_beams: 2, length_penalty: 0.6}}}}
compilation_cache: {folder}/compiled
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Numbers, and the same with other digits."""
    folder = tmp_path_factory.mktemp("translation")
    other = str.maketrans("0123456789", "9876543210")
    lines = [f"{number}\t{str(number).translate(other)}" for number in range(100, 148)]
    (folder / "pairs.tsv").write_text("\n".join(["source\ttarget", *lines]))
    path = folder / "translate.yaml"
    path.write_text(CONFIG.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def finished(config):
    """The run that nothing stopped. Read it only."""
    assert runs.start(config, config.parent / "finished") == 0
    return config.parent / "finished"


@pytest.mark.slow
def test_resumed_it_is_the_uninterrupted_run(config, finished, tmp_path):
    run_dir = run_with_crash(5, config, tmp_path / "run")
    runs.assert_same_run(run_dir, finished, step=6)
    one, other = (json.loads((path / "summary.json").read_text()) for path in (run_dir, finished))
    for name in ("bleu", "chrf", "validation_loss"):
        assert one[name] == other[name]


def test_its_figures_are_those_of_what_it_writes(config, finished, tmp_path):
    from sacrebleu.metrics import CHRF

    data = load_config(config).data.build()
    rows = data.examples["pairs"]["validation"]
    decode = data.tokenizer.decode
    source = tmp_path / "in.jsonl"
    source.write_text(
        "\n".join(json.dumps({"source": decode(rows.source(row))}) for row in range(rows.num_rows))
    )
    out = predict(finished, source, tmp_path / "out.jsonl", batch_size=4)
    told = [json.loads(line)["target"] for line in out.read_text().splitlines()]
    true = [decode(rows.target(row)) for row in range(rows.num_rows)]
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["chrf"] == CHRF().corpus_score(told, [true]).score
    assert "BLEU" in summary["told"][0]
    assert summary["validation_perplexity"] is None
    report([finished], out=tmp_path / "page.html")
    assert "chrF" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.baseline=tfidf", r"evaluation\.baseline=tfidf tells what whole texts are"),
        ("samples.every=3", "a model of type encoder_decoder"),
        ("objective={type: causal_lm}", r"objective\.type=causal_lm trains model\.type=decoder"),
        ("objective.label_smoothing=1", "less than 1"),
        ("evaluation.search.num_beams=0", "greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused(config, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(config, [override])
