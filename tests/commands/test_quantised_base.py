"""Runs with adapters beside weights that are held as small integers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from jaxllm.commands.assembly import assemble, check_devices
from jaxllm.commands.export import export_adapter, export_model
from jaxllm.commands.import_model import import_model
from jaxllm.commands.inspect import parameter_table
from jaxllm.commands.run_folder import open_model
from jaxllm.config import load_config
from jaxllm.hf.model import load_model, write_weights
from jaxllm.nn.param import bind, num_bytes, param_dict
from jaxllm.nn.quantised import dequantise, quantise

from . import runs
from .interruptions import run_with_crash

VOCAB = 64
INT4 = "base: {dtype: int4, tile: 16}"
INT8 = "base: {dtype: int8}"


def adapter(base, *, more=""):
    return (
        "adapter={type: lora, rank: 2, dropout: 0.1, targets: ['*.query', '*.down'], "
        f"has_magnitude: true, {base}{more}}}"
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tiny Llama as a Hugging Face folder. Read it only."""
    folder = tmp_path_factory.mktemp("base") / "model"
    config = tiny.config(vocab_size=VOCAB, num_layers=2, max_length=64)
    write_weights(folder, config, param_dict(tiny.decoder(config)))
    return folder


def options(published, base=INT4, *, more=""):
    start = f"init_from={{type: hf, path: {published}}}"
    return (start, "model=null", adapter(base, more=more))


@pytest.fixture(scope="module")
def adapted(ids, published):
    """The run that nothing stopped. Read it only."""
    run_dir = ids.parent / "quantised"
    assert runs.start(ids, run_dir, *options(published)) == 0
    return run_dir


@pytest.mark.slow
def test_resumed_it_is_the_uninterrupted_run(ids, published, adapted, tmp_path):
    run_dir = run_with_crash(5, ids, tmp_path / "run", *options(published))
    runs.assert_same_run(run_dir, adapted, step=8)


@pytest.mark.slow
def test_the_base_is_the_published_one_rounded(published, adapted):
    """What a run ends with, opened anew, is what quantising by itself gives, bit for bit."""
    found = flatten_dict(open_model(adapted).params, sep=".")
    weights = flatten_dict(load_model(published).params, sep=".")
    for path, weight in weights.items():
        if ".kernel" not in path or not path.startswith("blocks."):
            np.testing.assert_array_equal(found[path], weight)
            continue
        scale = found[f"{path}.scale"]
        integers, scales = jax.jit(
            lambda weight, shape=scale.shape: quantise(weight, shape=shape, dtype=jnp.int4)
        )(weight)
        np.testing.assert_array_equal(scale, scales)
        np.testing.assert_array_equal(found[f"{path}.integers"], integers)
    assert not any("kernel" in path for path in runs.arrays(adapted, 8))


@pytest.mark.slow
def test_merged_it_goes_out_with_the_same_logits(published, adapted, tmp_path):
    export_model(adapted, tmp_path / "out", step=None, dtype="float32")
    trained, tokens = open_model(adapted), tiny.batch(0)["tokens"]
    logits = tiny.fast(lambda params: bind(trained.parts.model, params)(tokens))(trained.params)
    # Two orders of the same sums, of logits up to about 4.
    np.testing.assert_allclose(load_model(tmp_path / "out")(tokens), logits, rtol=0, atol=5e-5)
    whole = flatten_dict(load_model(tmp_path / "out").params, sep=".")
    params = flatten_dict(trained.params, sep=".")
    path = "blocks.layers.mlp.up.kernel"  # which has no adapter
    alone = dequantise(params[f"{path}.integers"], params[f"{path}.scale"])
    np.testing.assert_array_equal(whole[path], alone)


@pytest.mark.slow
def test_the_adapter_by_itself_stands_beside_the_published_base(published, adapted, tmp_path):
    export_adapter(adapted, tmp_path / "out", step=None, dtype="float32")
    raw = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == str(published)


@pytest.mark.slow
def test_a_run_may_be_the_base(ids, published, tmp_path):
    """It gives the same integers as the folder that it was imported from."""
    import_model(published, tmp_path / "run", [])
    start = f"init_from={{type: run, path: {tmp_path / 'run'}}}"
    both = []
    for name, first in (("one", start), ("other", options(published)[0])):
        run_dir = tmp_path / name
        overrides = (first, "model=null", adapter(INT8), "training.steps=3")
        assert runs.start(ids, run_dir, *overrides) == 0
        both.append(flatten_dict(open_model(run_dir).params, sep="."))
    assert both[0]["blocks.layers.mlp.up.kernel.integers"].dtype == jnp.int8
    for path, leaf in both[0].items():
        np.testing.assert_array_equal(leaf, both[1][path])


@pytest.mark.parametrize(("base", "share"), [(INT8, 1 / 4), ("base: {dtype: int4}", 1 / 8)])
def test_the_base_takes_a_fourth_or_an_eighth(ids, published, base, share):
    parts = assembled(ids, options(published, base))
    alone = assembled(ids, (*options(published, base), "adapter.base=null"))
    sizes = {
        path: num_bytes(leaf.shape, leaf.dtype)
        for path, leaf in flatten_dict(parts.state.frozen, sep=".").items()
    }
    integers = sum(size for path, size in sizes.items() if path.endswith("kernel.integers"))
    kernels = sum(
        4 * leaf.size
        for path, leaf in flatten_dict(alone.state.frozen, sep=".").items()
        if path.startswith("blocks.") and path.endswith(".kernel")
    )
    assert integers == share * kernels
    assert parts.num_params == alone.num_params
    assert parts.num_matmul_params == alone.num_matmul_params
    assert parts.num_trained_params == alone.num_trained_params
    shown = [list(parameter_table(each).columns[2].cells)[-1] for each in (parts, alone)]
    small, large = (int(cell.replace(",", "")) for cell in shown)
    assert large - small == kernels - sum(
        size for path, size in sizes.items() if is_quantised_leaf(path)
    )


def is_quantised_leaf(path):
    return path.endswith((".kernel.integers", ".kernel.scale"))


def assembled(ids, overrides):
    config = load_config(ids, list(overrides))
    return assemble(config, layout=check_devices(config), vocab_size=VOCAB)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["adapter.base={dtype: int3}"], r"adapter\.base\.dtype: given 'int3'"),
        (["adapter.base={dtype: int4, tile: 5}"], r"adapter\.base\.tile=5 does not divide the inp"),
        (["adapter.base={dtype: int4, tile: 64}"], r"tile=64 does not divide .*kernel, 32;"),
        (["adapter.also_trained=[blocks]"], r"adapter\.base is given \(int4\), but adapter\.also_"),
    ],
)
def test_what_does_not_fit_is_refused(ids, published, more, message):
    with pytest.raises(ValueError, match=message):
        assembled(ids, (*options(published), *more))


def test_scales_of_norms_are_trained_and_those_of_integers_are_not(ids, published):
    parts = assembled(ids, options(published, more=", also_trained: ['*.scale', '*.key']"))
    own = [path for path in flatten_dict(parts.trained, sep=".") if "lora" not in path]
    assert set(own) == {
        "blocks.layers.attention.key.kernel",
        "blocks.layers.attention_norm.scale",
        "blocks.layers.mlp_norm.scale",
        "norm.scale",
    }
