"""A run that learns from conversations, from a published model with its tokenizer."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.generate import generate
from jaxllm.commands.prompts import question
from jaxllm.commands.report import report
from jaxllm.config import load_config
from jaxllm.data import load_tokenizer
from jaxllm.hf.model import write_weights
from jaxllm.hf.tokenizer import find_tokenizer
from jaxllm.nn.param import param_dict

from . import runs
from .interruptions import run_with_crash

GOLDEN = Path(__file__).parents[1] / "golden/hf_tokenizers"
PROMPTS = ["Number 3?", "And 7?"]

CONFIG = """
run_dir: {folder}/run
init_from: {{type: hf, path: {folder}/base}}
data:
  sequence_length: 128
  global_batch_size: 8
  root: {folder}/root
  datasets:
    numbers:
      type: chats
      source: {{type: jsonl, paths: ["{folder}/numbers.jsonl"]}}
      validation_every: 4
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant, warmup_steps: 2}}}}
training: {{steps: 6}}
checkpoints: {{every: 2, keep_latest: 2}}
evaluation: {{every: 6}}
samples: {{every: 6, prompts: ["Number 3?", "And 7?"], sampling: {{max_tokens: 4, temperature: 0}}}}
compilation_cache: {folder}/compiled
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The config, the tiny Llama that it starts from, and its data."""
    folder = tmp_path_factory.mktemp("chats")
    base = folder / "base"
    shutil.copytree(GOLDEN / "json_bytelevel", base)
    templates = json.loads((GOLDEN / "chat_templates.json").read_text())["templates"]
    (base / "chat_template.jinja").write_text(templates["bars"])
    tokenizer = find_tokenizer(base, vocab_size=None)
    model = tiny.config(vocab_size=tokenizer.vocab_size, num_layers=1, max_length=160)
    write_weights(base, model, param_dict(model.build(jax.random.key(0), tokenizer.vocab_size)))
    lines = [{"prompt": f"Number {i}?", "completion": f"It is {i}."} for i in range(60)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "numbers.jsonl").write_text(text)
    path = folder / "chats.yaml"
    path.write_text(CONFIG.format(folder=folder))
    return path


@pytest.fixture(scope="module")
def trained(config):
    """The run that nothing stopped. Read it only."""
    assert runs.start(config, config.parent / "trained") == 0
    return config.parent / "trained"


@pytest.mark.slow
def test_resumed_it_is_the_uninterrupted_run(config, trained, tmp_path):
    run_dir = run_with_crash(5, config, tmp_path / "run")
    runs.assert_same_run(run_dir, trained, step=6)


def test_it_answers_before_and_after(trained):
    """What the published model says comes first, in the report too."""
    samples = [record for record in runs.records(trained) if "sample" in record]
    assert [(one["step"], one["prompt"]) for one in samples] == [
        (step, prompt) for step in (0, 6) for prompt in PROMPTS
    ]
    scores = {
        r["step"]: r["validation_loss"] for r in runs.records(trained) if "validation_loss" in r
    }
    assert scores.keys() == {0, 6}
    assert scores[6] < scores[0]
    page = report([trained], out=trained.parent / "report.html").read_text()
    assert "step 0" in page
    assert all(prompt in page for prompt in PROMPTS)


def test_its_score_is_the_same_again(trained):
    (score,) = evaluate(trained).values()
    summary = json.loads((trained / "summary.json").read_text())
    assert score.nll / score.num_tokens == pytest.approx(summary["validation_loss"], rel=1e-6)


def test_it_is_scored_on_texts_too(trained, tmp_path):
    """How much of its language a run of conversations keeps."""
    (tmp_path / "plain.txt").write_text("The number three is behind two. " * 20)
    scores = evaluate(trained, data=[str(tmp_path / "plain.txt")])
    assert all(np.isfinite(score.loss) and score.raw_bytes for score in scores.values())
    assert len(scores) == 1


def test_prompts_are_asked_in_the_template(trained):
    texts = generate(trained, PROMPTS, sampling={"max_tokens": 4, "temperature": 0})
    last = [r["sample"] for r in runs.records(trained) if "sample" in r and r["step"] == 6]
    assert [f"\n{text}" for text in texts] == last
    tokenizer = load_tokenizer(trained / "tokenizer")
    ids = question(tokenizer, PROMPTS[0])
    assert tokenizer.decode(np.asarray(ids)) == "<|user|>\nNumber 3?<|im_end|>\n<|assistant|>\n"


def test_conversations_need_an_objective_that_reads_them(config):
    message = (
        r"data\.datasets\.numbers is of type chats, which objective\.type=prefix_lm does not read; "
        r"for this one take objective\.type=causal_lm"
    )
    with pytest.raises(ValueError, match=message):
        load_config(config, ["objective={type: prefix_lm}"])
