"""Weights that are not as the config says, and weights read straight to where they live."""

import jax
import numpy as np
import pytest

from jaxllm.hf.model import load_model, save_model
from jaxllm.nn.param import spec_dict
from jaxllm.parallel.layouts import weight_shardings
from jaxllm.parallel.mesh import ParallelConfig

from .published import published
from .random_weights import write_safetensors


def test_everything_wrong_is_listed_at_once():
    case = published("llama3")
    theirs = dict(case.theirs)
    del theirs["model.norm.weight"]
    theirs["model.extra.weight"] = np.zeros(3, np.float32)
    theirs["model.embed_tokens.weight"] = theirs["model.embed_tokens.weight"][:-1]
    with pytest.raises(ValueError, match="the tensors are not those") as error:
        case.load(theirs)
    text = str(error.value)
    assert "model.norm.weight: missing" in text
    assert "model.extra.weight: left over, of shape (3,)" in text
    assert "model.embed_tokens.weight: of shape (96, 48), not (97, 48)" in text


def test_a_tied_output_written_twice_is_no_mistake():
    case = published("llama3")
    twice = {**case.theirs, "lm_head.weight": case.theirs["model.embed_tokens.weight"]}
    jax.tree.map(np.testing.assert_array_equal, case.load(twice), case.load())


@pytest.mark.parametrize("name", ["gemma2", "mixtral"])
def test_each_device_reads_its_part(name):
    case = published(name)
    # The vocabulary of 97 is cut by nothing.
    layout = ParallelConfig(layout="fsdp", fsdp=2, tensor=1, data=4).build()
    read = []
    params = case.load(shardings=weight_shardings(layout, case.specs), on_progress=read.append)
    jax.tree.map(np.testing.assert_array_equal, params, case.load())
    # Four devices hold each part, which is read once.
    assert sum(read) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    query = params["blocks"]["layers"]["attention"]["query"]["kernel"]
    assert query.sharding.shard_shape(query.shape)[1] == query.shape[1] // 2


def test_a_sharded_model_computes_the_same():
    case = published("llama3")
    tokens = case.reference["input_ids"]
    layout = ParallelConfig(layout="fsdp", fsdp=2, data=4).build()
    rows = np.concatenate([tokens, tokens, tokens[:2]])  # 8 devices share the rows
    one, many = (
        jax.jit(bound(case), static_argnames="layout")(
            case.load(shardings=place), rows, layout=where
        )
        for place, where in ((None, None), (weight_shardings(layout, case.specs), layout))
    )
    # The same float32 sums in another order.
    np.testing.assert_allclose(one, many, rtol=0, atol=case.noise("logits"))


def bound(case):
    from jaxllm.nn.param import bind

    return lambda params, tokens, layout: bind(case.module, params)(tokens, layout=layout)


def test_a_folder_is_loaded_called_and_saved(tmp_path):
    case = published("qwen2")
    folder = case.write(tmp_path / "model")
    model = load_model(folder)
    logits = model(case.reference["input_ids"], segment_ids=case.reference["attention_mask"])
    is_real = case.reference["attention_mask"][..., None] > 0
    error = np.abs(np.where(is_real, logits, 0) - case.reference["logits"]).max()
    assert error <= case.noise("logits")
    save_model(model, tmp_path / "saved", max_shard_bytes=40_000)
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 2
    again = load_model(tmp_path / "saved")
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    with pytest.raises(ValueError, match="not empty"):
        save_model(model, tmp_path / "saved")


def test_bfloat16_is_kept(tmp_path):
    case = published("llama1")
    model = load_model(case.write(tmp_path / "model"), dtype="bfloat16")
    leaves = jax.tree.leaves(model.params)
    assert {leaf.dtype.name for leaf in leaves} == {"bfloat16"}
    assert model(case.reference["input_ids"]).dtype.name == "bfloat16"
    save_model(model, tmp_path / "saved", dtype="bfloat16")
    again = load_model(tmp_path / "saved", dtype="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert jax.tree.structure(spec_dict(again.module)) == jax.tree.structure(
        spec_dict(model.module)
    )


def test_a_tied_output_that_differs_is_refused(tmp_path):
    case = published("llama3")
    folder = case.write(tmp_path / "model")
    other = case.theirs["model.embed_tokens.weight"] + 1
    write_safetensors(folder / "model.safetensors", {**case.theirs, "lm_head.weight": other})
    with pytest.raises(ValueError, match=r"ties lm_head\.weight to .* but the files have both"):
        load_model(folder)


def test_what_a_call_cannot_do_is_refused(tmp_path):
    layout = ParallelConfig(layout="fsdp", fsdp=2, context=2, data=2).build()
    with pytest.raises(ValueError, match="zigzag"):
        load_model(published("llama3").write(tmp_path / "llama"), layout=layout)
    model = load_model(published("gpt2").write(tmp_path / "gpt2"))
    with pytest.raises(ValueError, match="the length of tokens is 60, but the model has 40"):
        model(np.ones((1, 60), np.int32))


def test_names_without_the_prefix_of_a_head(tmp_path):
    case = published("gpt2")
    folder = case.write(tmp_path / "model")
    bare = {name.removeprefix("transformer."): values for name, values in case.theirs.items()}
    write_safetensors(folder / "model.safetensors", bare)
    jax.tree.map(np.testing.assert_array_equal, load_model(folder).params, case.load())


def test_weights_in_whole_numbers_are_refused(tmp_path):
    case = published("llama1")
    folder = case.write(tmp_path / "model")
    norm = case.theirs["model.norm.weight"]
    write_safetensors(
        folder / "model.safetensors", {**case.theirs, "model.norm.weight": norm.astype(np.int8)}
    )
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds whole numbers \(int8\)"):
        load_model(folder)
