"""Runs that train a part of a network, beside weights that they leave as they are."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from jaxllm.commands.export import export_adapter, export_model
from jaxllm.commands.import_model import import_model
from jaxllm.commands.run_folder import open_model
from jaxllm.config import load_config
from jaxllm.hf.model import load_model, write_weights
from jaxllm.nn.adapters import is_adapter
from jaxllm.nn.param import bind, param_dict

from . import runs
from .interruptions import run_with_crash

LORA = "{type: lora, rank: 2, dropout: 0.1, targets: ['*.query', '*.down'], has_magnitude: true}"
BOTTLENECK = "{type: bottleneck, size: 4, targets: ['*.mlp']}"
ADAPTER = f"adapter={LORA}"
VOCAB = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Llama as a Hugging Face folder. Read it only."""
    folder = tmp_path_factory.mktemp("base") / "model"
    config = tiny.config(vocab_size=VOCAB, num_layers=2, max_length=64)
    write_weights(folder, config, param_dict(tiny.decoder(config)))
    return folder


def options(base, *, adapter=ADAPTER):
    """The overrides that make a run of ids one that starts from a folder."""
    return (f"init_from={{type: hf, path: {base}}}", "model=null", adapter)


@pytest.fixture(scope="module")
def adapted(ids, base):
    """The run with adapters that nothing stopped. Read it only."""
    run_dir = ids.parent / "adapted"
    assert runs.start(ids, run_dir, *options(base)) == 0
    return run_dir


def arrays(run_dir):
    """The weights of a run opened for reading, by dotted path."""
    leaves = jax.tree.leaves_with_path(open_model(run_dir).params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in leaves
    }


def test_resumed_it_is_the_uninterrupted_run(ids, base, adapted, tmp_path):
    run_dir = run_with_crash(5, ids, tmp_path / "run", *options(base))
    runs.assert_same_run(run_dir, adapted, step=8)


def test_it_saves_what_it_trained_alone(adapted, uninterrupted):
    saved = runs.arrays(adapted, 8)
    weights = [path for path in saved if path.startswith("params")]
    assert len(weights) == 2 * 2 * 3  # of two layers A, B and magnitude, and their averages
    assert all("lora" in path for path in weights)
    small, large = (
        sum(array.nbytes for array in runs.arrays(run_dir, 8).values())
        for run_dir in (adapted, uninterrupted)
    )
    assert small < 0.1 * large
    assert 0 < num_bytes(adapted) < 0.5 * num_bytes(uninterrupted)  # files of few numbers


def num_bytes(run_dir):
    folder = run_dir / "checkpoints" / "8" / "params"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_base_is_as_it_was_and_adapters_learned(base, adapted):
    found = arrays(adapted)
    published = load_model(base).params
    for path, leaf in jax.tree.leaves_with_path(published):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        np.testing.assert_array_equal(found.pop(name), leaf)
    assert all(is_adapter(path) for path in found)
    assert all(np.abs(array).max() > 0.01 for array in found.values())


def test_merged_it_goes_out_with_the_same_logits(base, adapted, tmp_path):
    export_model(adapted, tmp_path / "out", step=None, dtype="float32")
    trained, tokens = open_model(adapted), tiny.batch(0)["tokens"]
    logits = tiny.fast(lambda params: bind(trained.parts.model, params)(tokens))(trained.params)
    merged = load_model(tmp_path / "out")(tokens)
    # Two orders of the same sums, of logits up to about 4.
    np.testing.assert_allclose(merged, logits, rtol=0, atol=5e-5)
    assert np.abs(np.asarray(merged) - load_model(base)(tokens)).max() > 0.05


def test_another_base_is_refused(ids, base, adapted, tmp_path):
    run_dir, other = tmp_path / "run", tmp_path / "model"
    shutil.copytree(base, other)
    assert runs.start(ids, run_dir, *options(other), "training.steps=3") == 0
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # a sign or a size of one number
    (other / "model.safetensors").write_bytes(weights)
    message = r"init_from: the weights of .*model are not those that the run was trained beside"
    with pytest.raises(ValueError, match=message):
        open_model(run_dir)
    (run_dir / "summary.json").unlink()
    with pytest.raises(ValueError, match=message):
        runs.start(ids, run_dir, *options(other), "training.steps=4")


@pytest.fixture(scope="module")
def bottled(ids, base):
    """A run with small networks of its own that nothing stopped. Read it only."""
    run_dir = ids.parent / "bottled"
    assert runs.start(ids, run_dir, *options(base, adapter=f"adapter={BOTTLENECK}")) == 0
    return run_dir


@pytest.mark.slow
def test_bottlenecks_resume_and_are_saved_alone(ids, base, bottled, tmp_path):
    run_dir, more = tmp_path / "run", options(base, adapter=f"adapter={BOTTLENECK}")
    run_with_crash(5, ids, run_dir, *more)
    runs.assert_same_run(run_dir, bottled, step=8)
    saved = [path for path in runs.arrays(run_dir, 8) if path.startswith("params")]
    assert len(saved) == 2 * 4  # kernels and biases of both layers, and their averages
    assert all("['bottleneck']" in path for path in saved)
    found = arrays(run_dir)
    for path, leaf in jax.tree.leaves_with_path(load_model(base).params):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        np.testing.assert_array_equal(found.pop(name), leaf)
    assert all(np.abs(array).max() > 0.01 for array in found.values())


def test_bottlenecks_stay_with_their_run(ids, bottled, tmp_path):
    for export in (export_model, export_adapter):
        with pytest.raises(ValueError, match=r"bottled has bottleneck adapters.*type=lora"):
            export(bottled, tmp_path / "out", step=None, dtype="float32")
    assert not (tmp_path / "out").exists()
    start = f"init_from={{type: run, path: {bottled}}}"
    with pytest.raises(ValueError, match=r"bottled has bottleneck adapters, which are no part of"):
        runs.start(ids, tmp_path / "next", start)


def test_an_adapter_goes_out_as_peft_has_it(adapted, uninterrupted, base, tmp_path):
    export_adapter(adapted, tmp_path / "out", step=None, dtype="bfloat16")
    raw = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (raw["r"], raw["use_dora"], raw["lora_dropout"]) == (2, True, 0.1)
    assert raw["target_modules"] == ["down_proj", "q_proj"]
    assert raw["base_model_name_or_path"] == str(base)
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    with pytest.raises(ValueError, match=r"has no adapter; export the whole model, without --ad"):
        export_adapter(uninterrupted, tmp_path / "none", step=None, dtype="float32")


@pytest.mark.parametrize(
    "adapter",
    [
        pytest.param("null", marks=pytest.mark.slow),
        "{type: lora, targets: ['*.mlp'], also_trained: [out]}",
    ],
)
def test_new_tokens_go_out_with_the_model(adapter, ids, base, tmp_path):
    """Of a run that trains all, and of one that reads what it does not train from its base."""
    run_dir, out = tmp_path / "run", tmp_path / "out"
    more = (
        f"init_from={{type: hf, path: {base}, new_tokens: mean}}",
        "model={vocab_size: 72}",
        f"adapter={adapter}",
        *("optim.schedule.warmup_steps=0", "training.steps=1"),
    )
    assert runs.start(ids, run_dir, *more) == 0
    export_model(run_dir, out, step=None, dtype="float32")
    result, old = load_model(out), load_model(base)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 72
    table, before = (np.asarray(one.params["embed"]["table"]) for one in (result, old))
    assert table.shape == (72, 32)
    if adapter != "null":
        np.testing.assert_array_equal(table[:VOCAB], before)
        # The mean in float64, to a rounding of float32.
        np.testing.assert_allclose(table[VOCAB:], np.tile(before.mean(0, np.float64), (8, 1)), 2e-7)
        with pytest.raises(ValueError, match=r"run has more tokens than .*without --adapter"):
            export_adapter(run_dir, tmp_path / "adapter", step=None, dtype="float32")


FROZEN = "training={steps: 4, frozen: [blocks, embed]}"


def test_a_part_of_a_network_is_trained(ids, uninterrupted, tmp_path):
    """Beside the weights of a run, of which it started."""
    start = f"init_from={{type: run, path: {uninterrupted}}}"
    run_dir = run_with_crash(4, ids, tmp_path / "run", start, FROZEN)
    before, after = arrays(uninterrupted), arrays(run_dir)
    same = {path for path in before if np.array_equal(before[path], after[path])}
    assert same == {path for path in before if path.startswith(("blocks.", "embed."))}
    assert {path for path in runs.arrays(run_dir, 4) if path.startswith("params")} == {
        "params['weights']['norm']['scale']",
        "params['weights']['out']['kernel']",
    }
    message = rf"{run_dir} saved only what it trained, beside the weights of {uninterrupted}"
    with pytest.raises(ValueError, match=message):
        runs.start(ids, tmp_path / "next", f"init_from={{type: run, path: {run_dir}}}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init_from=null", ADAPTER], r"adapter is given, but init_from is null"),
        (["training.frozen=[embed]"], r"training\.frozen is given, but init_from is null"),
        (["training.frozen=[embed]", ADAPTER], r"with an adapter all other weights stay"),
        (["adapter={rank: 2}"], r"adapter\.type: missing; it is one of lora, bottleneck"),
        (["adapter={type: lora, size: 2}"], r"adapter\.size: unknown key"),
        (
            ["adapter={type: lora, rank: 2}"],
            r"adapter\.targets: missing; Linear layers that have one",
        ),
        (["adapter={type: lora, targets: []}"], r"adapter\.targets: given \[\]; needs at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(ids, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config(ids, overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["adapter.targets=['*.querry']"], r"adapter\.targets: '\*\.querry' matches nothing"),
        (["adapter.also_trained=[head]"], r"adapter\.also_trained: 'head' matches nothing"),
        (["adapter=null", "training.frozen=[x]"], r"training\.frozen: 'x' matches nothing"),
        (["adapter=null", "training.frozen=['*']"], r"matches all weights, and nothing is left"),
    ],
)
def test_patterns_that_choose_nothing_are_refused_before_anything_is_written(
    ids, base, tmp_path, overrides, message
):
    with pytest.raises(ValueError, match=message):
        runs.start(ids, tmp_path / "run", *options(base), *overrides)
    assert not (tmp_path / "run").exists()


def test_an_imported_model_is_a_base_in_a_folder_of_its_own(ids, base, tmp_path):
    import_model(base, tmp_path / "run", [])
    more = ("init_from={type: run, path: " + str(tmp_path / "run") + "}", ADAPTER)
    with pytest.raises(ValueError, match=r"holds an imported model.*give this folder as init_from"):
        runs.start(ids, tmp_path / "run", "model=null", *more)
    assert runs.start(ids, tmp_path / "next", "model=null", *more, "training.steps=3") == 0
    assert json.loads((tmp_path / "next" / "summary.json").read_text())["steps"] == 3
