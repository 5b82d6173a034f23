"""Runs with adapters beside the experts of a mixture, which are held as small integers."""

import json

import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from jaxllm.commands.export import export_adapter, export_model
from jaxllm.commands.run_folder import open_model
from jaxllm.hf.model import load_model, write_weights
from jaxllm.nn.param import bind, param_dict

from . import runs
from .interruptions import run_with_crash

pytestmark = pytest.mark.slow

ADAPTER = (
    "adapter={type: lora, rank: 2, targets: ['*.experts', '*.query'], base: {dtype: int4, tile: 8}}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Mixtral as a Hugging Face folder. Read it only."""
    folder = tmp_path_factory.mktemp("base") / "model"
    moe = {"num_experts": 4, "top_k": 2, "expert_dim": 48}
    config = tiny.config(vocab_size=64, num_layers=2, max_length=64, moe=moe)
    write_weights(folder, config, param_dict(tiny.decoder(config)))
    return folder


def options(base):
    return (f"init_from={{type: hf, path: {base}}}", "model=null", ADAPTER)


@pytest.fixture(scope="module")
def adapted(ids, base):
    """The run that nothing stopped. Read it only."""
    run_dir = ids.parent / "experts"
    assert runs.start(ids, run_dir, *options(base)) == 0
    return run_dir


def test_resumed_it_is_the_uninterrupted_run(ids, base, adapted, tmp_path):
    run_dir = run_with_crash(5, ids, tmp_path / "run", *options(base))
    runs.assert_same_run(run_dir, adapted, step=8)


def test_it_saves_what_it_trained_alone(adapted):
    weights = [path for path in runs.arrays(adapted, 8) if path.startswith("params")]
    assert len(weights) == 2 * 2 * 4  # A and B of four matrices, and their averages
    assert all("lora" in path for path in weights)


def test_merged_it_goes_out_with_the_same_logits(base, adapted, tmp_path):
    export_model(adapted, tmp_path / "out", step=None, dtype="float32")
    trained, tokens = open_model(adapted), tiny.batch(0)["tokens"]
    names = flatten_dict(trained.params, sep=".")
    assert names["blocks.layers.moe.experts.up.kernel.integers"].dtype.name == "int4"
    logits = tiny.fast(lambda params: bind(trained.parts.model, params)(tokens))(trained.params)
    merged = load_model(tmp_path / "out")(tokens)
    # Two orders of the same sums, of logits up to about 4.
    np.testing.assert_allclose(merged, logits, rtol=0, atol=5e-5)
    assert np.abs(np.asarray(merged) - load_model(base)(tokens)).max() > 0.05


def test_the_adapter_goes_out_as_peft_has_it(adapted, base, tmp_path):
    export_adapter(adapted, tmp_path / "out", step=None, dtype="float32")
    raw = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert raw["target_modules"] == ["q_proj"]
    assert raw["target_parameters"] == [
        f"model.layers.{layer}.mlp.experts.{name}"
        for layer in (0, 1)
        for name in ("down_proj", "gate_up_proj")
    ]
    assert raw["base_model_name_or_path"] == str(base)
