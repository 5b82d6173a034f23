"""Two real processes that start from a published model, each reading its part of the weights."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.hf.model import load_model, write_weights
from jaxllm.hf.tokenizer import write_tokenizer
from jaxllm.nn.param import param_dict

from . import runs
from .test_two_processes import assert_close, ended, pair

__all__ = ["pair"]

pytestmark = pytest.mark.slow

VOCAB = 264  # 257 tokens, in a multiple of 8
CONFIG = """
run_dir: {folder}/run
init_from: {{type: hf, path: {folder}/source}}
parallel: {{layout: fsdp}}
data:
  sequence_length: 16
  global_batch_size: 8
  root: {folder}/root
  datasets:
    ids: {{type: bin, train: {folder}/train.bin, vocab_size: 60, delimiter_id: 0}}
optim: {{type: adamw, learning_rate: 0.001, schedule: {{type: constant}}}}
training: {{steps: 3}}
checkpoints: {{every: 3}}
compilation_cache: {folder}/compiled
"""


@pytest.fixture
def source(tmp_path):
    """A tiny Llama as others publish it, in several files."""
    config = tiny.config(vocab_size=VOCAB, is_tied=True, num_layers=2, max_length=64)
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), VOCAB))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) / 6).astype(np.float32), param_dict(model)
    )
    folder = tmp_path / "source"
    write_weights(folder, config, params, max_shard_bytes=20_000)
    write_tokenizer(ByteTokenizer(), folder)
    return folder


@pytest.fixture
def config(source, tmp_path):
    """A run of three steps from it."""
    runs.write_ids(tmp_path)
    path = tmp_path / "start.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def test_they_lose_what_one_process_loses(config, source, tmp_path, pair):
    """fsdp cuts every weight over both processes; alone, over the eight devices of this one."""
    first, second = ended(pair("train", config, f"run_dir={tmp_path}/two"))
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "starting from the weights of" in first[1]
    assert runs.start(config, tmp_path / "one") == 0
    assert len(runs.losses(tmp_path / "one")) == 3
    assert_close(runs.losses(tmp_path / "two"), runs.losses(tmp_path / "one"))
    # The weights count: another model loses otherwise from the first step on.
    assert len(list(source.glob("*.safetensors"))) > 2
    scratch = tmp_path / "scratch.yaml"
    lines = config.read_text().splitlines()
    network = json.dumps(load_model(source).config.model_dump(mode="json"))
    lines = [f"model: {network}" if line.startswith("init_from") else line for line in lines]
    scratch.write_text("\n".join(lines))
    assert runs.start(scratch, tmp_path / "zero") == 0
    losses = [runs.losses(tmp_path / name)[0][1] for name in ("one", "zero")]
    assert abs(losses[0] - losses[1]) > 0.01


def test_weights_that_do_not_fit_end_both_in_one_line(config, source, tmp_path, pair):
    first, second = ended(pair("train", config, f"run_dir={tmp_path}/two", "model.num_layers=3"))
    assert (first[0], second[0]) == (2, 2), (first, second)
    # Both find it at the same time; one tells it in full, and the other in one line who failed.
    assert "layers.2.input_layernorm.weight: missing" in first[2] + second[2]
    assert all("error: " in said or "ended with code 2: " in said for said in (first[2], second[2]))
    assert "Traceback" not in first[2] + second[2]
    assert not (tmp_path / "two").exists()


def test_damaged_weights_end_both(config, source, tmp_path, pair):
    """The last file has numbers that are no numbers, found only while it is read."""
    shutil.copytree(source, tmp_path / "whole")
    file = sorted(source.glob("*.safetensors"))[-1]
    content = bytearray(file.read_bytes())
    content[-8:] = np.full(2, np.nan, np.float32).tobytes()
    file.write_bytes(content)
    first, second = ended(pair("train", config, f"run_dir={tmp_path}/two"))
    assert first[0] != 0
    assert second[0] != 0
    said = first[2] + second[2]
    assert "NaN, infinite or too large for float32" in said
    assert "Traceback" not in said
