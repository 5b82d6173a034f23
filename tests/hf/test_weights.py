"""Weights that are not as the config says, and weights read straight to where they live."""

import json
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from jaxllm.hf.model import load_model, save_model
from jaxllm.hf.published import kept_keys
from jaxllm.hf.weights import num_bytes_read
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
    with pytest.raises(ValueError, match=r"model\.norm\.weight: holds whole numbers \(I8\)"):
        load_model(folder)


def test_numbers_that_are_not_finite_are_told_with_their_tensors():
    case = published("mixtral")
    theirs = {name: values.copy() for name, values in case.theirs.items()}
    names = sorted(name for name in theirs if "norm" in name or "experts.1.w1" in name)[:4]
    for name, value in zip(names, (np.nan, np.inf, -np.inf, np.nan), strict=True):
        theirs[name].flat[-1] = value
    with pytest.raises(ValueError, match="numbers that are NaN, infinite or too large") as error:
        case.load(theirs)
    assert f": {', '.join(names)};" in str(error.value)
    layout = ParallelConfig(layout="fsdp", fsdp=2, tensor=1, data=4).build()
    with pytest.raises(ValueError, match=names[1]):
        case.load(theirs, shardings=weight_shardings(layout, case.specs))


def test_numbers_beyond_the_dtype_are_told():
    case = published("llama1")
    theirs = {name: values.astype(np.float64) for name, values in case.theirs.items()}
    theirs["model.norm.weight"][0] = 1e60
    with pytest.raises(ValueError, match=r"too large for float32: model\.norm\.weight;"):
        case.load(theirs)


@pytest.mark.parametrize("name", ["bert_sequence", "bert_token", "vit"])
def test_what_classes_are_called_is_kept(name, tmp_path):
    case = published(name)
    folder = case.write(tmp_path / "model")
    count = case.config.num_labels
    names = {str(number): f"kind {number}" for number in range(count)}
    raw = case.raw | {"id2label": names, "label2id": None, "problem_type": "regression"}
    for label2id, expected in (
        (None, {f"kind {number}": number for number in range(count)}),
        ({"a": 7}, {"a": 7}),
    ):
        (folder / "config.json").write_text(json.dumps(raw | {"label2id": label2id}))
        saved = tmp_path / f"saved {label2id is None}"
        save_model(load_model(folder), saved)
        found = json.loads((saved / "config.json").read_text())
        assert found["id2label"] == names
        assert found["label2id"] == expected
        assert found["problem_type"] == "regression"


def test_names_of_other_classes_are_not_kept():
    config = published("bert_token").config
    for names in ({"0": "one"}, ["a", "b", "c", "d", "e"], dict.fromkeys("abcde", "x")):
        assert kept_keys({"id2label": names, "label2id": {}}, config) == {}
    assert kept_keys({"id2label": {"0": "a"}, "bos_token_id": 3}, published("llama1").config) == {
        "bos_token_id": 3
    }


@pytest.mark.parametrize("kind", ["fsdp", "replicated"])
def test_progress_ends_at_what_is_read(kind):
    case, done = published("bert_pooler"), []
    sizes = {"tensor": 1} | ({"fsdp": 2, "data": 4} if kind == "fsdp" else {})
    shardings = weight_shardings(ParallelConfig(layout=kind, **sizes).build(), case.specs)
    case.load(shardings=shardings, on_progress=done.append)
    whole = sum(values.nbytes for values in case.theirs.values())
    assert sum(done) == num_bytes_read(case.specs, shardings) == whole


@dataclass
class OfOneHost:
    """A sharding of which this host has only the first of its devices."""

    whole: jax.sharding.Sharding

    def addressable_devices_indices_map(self, shape):
        return dict(list(self.whole.devices_indices_map(shape).items())[:1])

    def shard_shape(self, shape):
        return self.whole.shard_shape(shape)


def test_progress_of_one_host_is_of_its_own_part():
    mesh = jax.make_mesh((8,), ("x",))
    cut, same = (
        OfOneHost(jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis)))
        for axis in ("x", None)
    )
    shapes = {name: jax.ShapeDtypeStruct((16, 3), np.float32) for name in "ab"}
    # The rows of one device of eight, and all of what each device has; 4 bytes each.
    assert num_bytes_read(shapes, {"a": cut, "b": same}) == 4 * (2 * 3 + 16 * 3)
