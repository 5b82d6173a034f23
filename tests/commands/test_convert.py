"""Published models in, trained ones out, and training that starts from them."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tiny
import yaml
from hf.published import names as recorded_names
from hf.published import published as recorded
from hf.random_weights import write_safetensors
from hf.test_decoders import DECODERS

from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.export import export_model
from jaxllm.commands.generate import generate
from jaxllm.commands.import_model import import_model
from jaxllm.commands.inspect import inspect
from jaxllm.commands.run_folder import known_data, open_model, read_config
from jaxllm.commands.train import train
from jaxllm.config import load_config
from jaxllm.data import load_tokenizer
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.hf.model import load_model, write_weights
from jaxllm.hf.start import HfStart
from jaxllm.hf.tensor_files import read_folder
from jaxllm.hf.tokenizer import find_tokenizer, write_tokenizer
from jaxllm.nn.param import param_dict

from . import runs

VOCAB = 264  # 257 tokens, in a multiple of 8


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as others publish them: a tiny Llama with tied embeddings, of bytes."""
    folder = tmp_path_factory.mktemp("published") / "model"
    config = tiny.config(vocab_size=VOCAB, is_tied=True, num_layers=2, max_length=64)
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), VOCAB))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (rng.normal(size=leaf.shape) / 6).astype(np.float32), param_dict(model)
    )
    write_weights(folder, config, params, extra={"bos_token_id": 256, "eos_token_id": [256, 10]})
    write_tokenizer(ByteTokenizer(), folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [256, 10]}')
    return folder


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    """The run folder of that model. Read it only."""
    run_dir = tmp_path_factory.mktemp("imported") / "run"
    import_model(published, run_dir, [])
    return run_dir


def weights_of(run_dir, step):
    """The saved weights of a run (the averaged ones, if it has them), by path."""
    params = open_model(run_dir, step=step).params
    leaves = jax.tree.flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def same_weights(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[path], other[path]) for path in one)


def test_an_imported_model_goes_out_bit_for_bit(published, imported, tmp_path):
    export_model(imported, tmp_path / "out", step=None, dtype="float32")
    before, after = load_model(published), load_model(tmp_path / "out")
    assert after.config == before.config
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    ours, theirs = (
        json.loads((f / "config.json").read_text()) for f in (tmp_path / "out", published)
    )
    assert ours == theirs
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (published / name).read_bytes()
    stops = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [256, 10]


def test_an_imported_model_generates_what_the_model_says(published, imported):
    (text,) = generate(imported, ["the "], sampling={"temperature": 0.0, "max_tokens": 6})
    model, tokenizer = load_model(published), find_tokenizer(published, vocab_size=VOCAB)
    ids = tokenizer.encode_with_specials("the ").ids.tolist()
    prompt = len(ids)
    for _ in range(6):
        logits = np.asarray(model(np.array([ids], np.int32)))[0, -1, :257]
        if int(np.argmax(logits)) in tokenizer.stop_ids:
            break
        ids.append(int(np.argmax(logits)))
    assert text == tokenizer.decode(ids[prompt:])
    assert load_tokenizer(imported / "tokenizer").stop_ids == (256, 10)


def test_an_imported_model_is_scored_on_text(imported, tmp_path):
    (tmp_path / "a.txt").write_text("the war of the people and of the laws\n" * 20)
    (score,) = evaluate(imported, data=[str(tmp_path / "a.txt")]).values()
    assert score.raw_bytes == 38 * 20
    assert 4 < score.loss < 9  # random weights, 257 tokens: about log 257


@pytest.mark.parametrize("name", recorded_names(*DECODERS))
def test_every_decoder_comes_in_and_goes_out(name, tmp_path, capsys):
    """With what its config.json says: scalings of positions, windows, experts."""
    case = recorded(name)
    folder = case.write(tmp_path / "theirs")
    # Their sizes divide over no eight devices.
    import_model(folder, tmp_path / "run", ["parallel.layout=replicated"])
    assert read_config(tmp_path / "run").model == case.config
    assert HfStart(path=str(folder)).model() == case.config.model_dump(mode="json")
    export_model(tmp_path / "run", tmp_path / "out", step=None, dtype="float32")
    before, after = read_folder(folder), read_folder(tmp_path / "out")
    assert before.keys() == after.keys()
    for tensor, entry in before.items():
        np.testing.assert_array_equal(after[tensor].array(), entry.array(), err_msg=tensor)


def test_a_question_is_put_in_the_chat_template(published, imported, tmp_path):
    with pytest.raises(ValueError, match="--chat needs a chat template"):
        generate(imported, ["hi"], sampling={}, is_chat=True)
    folder = tmp_path / "chat"
    shutil.copytree(published, folder)
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}[answer] "
    )
    (folder / "chat_template.jinja").write_text(template)
    import_model(folder, tmp_path / "run", [])
    greedy = {"temperature": 0.0, "max_tokens": 4}
    (answer,) = generate(tmp_path / "run", ["hi"], sampling=greedy, is_chat=True)
    (written,) = generate(tmp_path / "run", ["[user] hi [answer] "], sampling=greedy)
    assert answer == written


def test_without_data_it_says_what_to_give(imported):
    with pytest.raises(ValueError, match=r"data\.datasets is empty; give what to train on"):
        runs.start(imported / "config.yaml", imported)


@pytest.mark.slow
def test_an_imported_model_is_trained_on_in_its_folder(published, tmp_path):
    (tmp_path / "a.txt").write_text("the war of the people and of the laws\n" * 40)
    run_dir, other = tmp_path / "run", tmp_path / "other"
    import_model(published, run_dir, ["data.sequence_length=16"])
    before = weights_of(run_dir, 0)
    imported = (run_dir / "config.yaml").read_text()
    corpus = f"{{type: text, paths: ['{tmp_path}/a.txt']}}"
    options = [
        f"data.root={tmp_path}/root",
        f"data.datasets.text={{type: corpus, validation_every: 0, corpus: {corpus}}}",
        "optim={type: adamw, learning_rate: 0.001, schedule: {type: constant}}",
        "training.steps=2",
        "checkpoints.every=1",
    ]
    assert runs.start(run_dir / "config.yaml", run_dir, *options) == 0
    assert not same_weights(before, weights_of(run_dir, 2))
    # What starts from the folder itself is the same training.
    (tmp_path / "config.yaml").write_text(imported)
    start = f"init_from={{type: hf, path: {published}}}"
    assert runs.start(tmp_path / "config.yaml", other, start, *options) == 0
    assert losses(run_dir) == losses(other)
    assert same_weights(weights_of(other, 2), weights_of(run_dir, 2))


def losses(run_dir):
    """The training losses of a run, by step."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return {r["step"]: r["loss"] for r in map(json.loads, lines) if "loss" in r}


def test_an_import_that_was_not_trained_yet_keeps_to_no_data(imported, tmp_path):
    """What a start that was killed had opened is none of the next one's, which may name others."""
    run_dir = tmp_path / "run"
    shutil.copytree(imported, run_dir)
    (run_dir / "datasets.json").write_text('{"text": "/prepared/before"}')
    assert known_data(run_dir)["folders"] == {}
    (run_dir / "metrics.jsonl").touch()
    assert known_data(run_dir)["folders"] == {"text": Path("/prepared/before")}


def test_another_model_is_not_trained_in_its_folder(imported):
    with pytest.raises(ValueError, match=r"model\.rope_theta: 10000\.0 in the run folder, 5000\.0"):
        runs.start(imported / "config.yaml", imported, "model.rope_theta=5000.0")


def test_a_run_starts_from_another(ids, uninterrupted, tmp_path):
    """Where steps are too short for float32 the weights stay: the averaged ones of the other."""
    start = f"init_from={{type: run, path: {uninterrupted}}}"
    options = ("optim={type: sgd, learning_rate: 1e-30}", "training={steps: 1}")
    raw = yaml.safe_load(ids.read_text())
    del raw["model"]  # as in the run that it starts from
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(raw))
    assert runs.start(config, tmp_path / "run", start, *options) == 0
    assert same_weights(weights_of(tmp_path / "run", 1), weights_of(uninterrupted, 8))
    missing = f"init_from={{type: run, path: {uninterrupted}, step: 5}}"
    with pytest.raises(ValueError, match=r"no checkpoint of step 5; it has \[6, 8\]"):
        runs.start(config, tmp_path / "third", missing, *options)


def test_a_trained_run_goes_out(finished, tmp_path):
    """Text, its own byte tokenizer, averaged weights: all as `generate` uses them."""
    export_model(finished, tmp_path / "out", step=None, dtype="float32")
    model, tokenizer = (
        load_model(tmp_path / "out"),
        find_tokenizer(tmp_path / "out", vocab_size=None),
    )
    (text,) = generate(finished, ["the "], sampling={"temperature": 0.0, "max_tokens": 1})
    ids = [tokenizer.delimiter_id, *tokenizer.encode("the ").tolist()]
    logits = np.asarray(model(np.array([ids], np.int32)))[0, -1, :257]
    assert text == tokenizer.decode([int(np.argmax(logits))])


def test_a_network_of_no_family_is_not_written(ids, tmp_path):
    options = ("model.activation=relu_squared", "model.is_gated=false", "training.steps=3")
    assert runs.start(ids, tmp_path / "run", *options) == 0
    with pytest.raises(ValueError, match=r"no published family.*(?s:.)*llama: is_gated=False"):
        export_model(tmp_path / "run", tmp_path / "out", step=None, dtype="float32")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(published, imported, tmp_path):
    (tmp_path / "file").write_text("mine")
    for call in (
        lambda: import_model(published, tmp_path, []),
        lambda: export_model(imported, tmp_path, step=None, dtype="float32"),
    ):
        with pytest.raises(ValueError, match="exists and is not empty"):
            call()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_import_leaves_nothing(published, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in published.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is truncated"):
        import_model(broken, tmp_path / "run", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", ["CheckpointConfig.build", "write_text", "dump_yaml"])
def test_an_interrupted_import_leaves_nothing(published, tmp_path, monkeypatch, place):
    monkeypatch.setattr(f"jaxllm.commands.import_model.{place}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_model(published, tmp_path / "run", [])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(imported, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxllm.hf.model.write_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_model(imported, tmp_path / "out", step=None, dtype="float32")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_import_left_is_gone_with_the_next(published, tmp_path):
    (tmp_path / ".run.partial" / "checkpoints").mkdir(parents=True)
    (tmp_path / ".run.partial" / "config.yaml").write_text("half")
    with pytest.raises(ValueError, match="is no model folder"):
        import_model(tmp_path / "none", tmp_path / "run", [])
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_that_tensor_does_not_divide_says_what_does(published, tmp_path):
    """It stays as it is published: rows without a token would change the likelihood of others."""
    message = r"embed\.table: vocab of size 97 cannot be cut in 2 \(parallel\.tensor\), but in 1\n"
    folder = recorded("llama1").write(tmp_path / "model")
    for kind in ("fsdp", "zero1"):
        options = [f"parallel={{layout: {kind}, tensor: 2, fsdp: 1, data: 4}}"]
        with pytest.raises(ValueError, match=message):
            import_model(folder, tmp_path / "run", options)


def test_weights_that_this_host_cannot_hold_are_not_imported(published, tmp_path, monkeypatch):
    """Weights on CPU devices are in its memory too: once where they are cut, and else on each."""
    num_bytes = 4 * sum(math.prod(entry.shape) for entry in read_folder(published).values())

    def available(times):
        memory = SimpleNamespace(available=int(times * num_bytes))
        monkeypatch.setattr("psutil.virtual_memory", lambda: memory)

    available(8.9)  # eight devices, and the copy that is saved
    with pytest.raises(ValueError, match=r"all weights in float32 on one host.*init_from"):
        import_model(published, tmp_path / "run", ["parallel.layout=replicated"])
    assert list(tmp_path.iterdir()) == []
    import_model(published, tmp_path / "run", ["parallel.layout=fsdp"])


def test_numbers_that_are_not_finite_are_not_imported(tmp_path):
    folder = recorded("llama1").write(tmp_path / "model")
    theirs = dict(recorded("llama1").theirs)
    theirs["model.norm.weight"] = np.full_like(theirs["model.norm.weight"], np.nan)
    write_safetensors(folder / "model.safetensors", theirs)
    with pytest.raises(ValueError, match=r"numbers that are NaN.*: model\.norm\.weight;"):
        import_model(folder, tmp_path / "run", ["parallel.layout=replicated"])
    assert not (tmp_path / "run").exists()


def test_a_start_that_is_not_there(ids, tmp_path):
    for kind, match in (("hf", "is no model folder"), ("run", "is no run folder")):
        start = f"init_from={{type: {kind}, path: {Path(tmp_path) / 'none'}}}"
        with pytest.raises(ValueError, match=f"init_from.*{match}"):
            runs.start(ids, tmp_path / "run", start)


START = """
run_dir: {folder}/run
init_from: {{type: hf, path: {source}}}
data:
  sequence_length: 16
  global_batch_size: 8
  datasets:
    ids: {{type: bin, train: {folder}/train.bin, vocab_size: 60, delimiter_id: 0}}
optim: {{type: adamw, learning_rate: 0.001, schedule: {{type: constant}}}}
training: {{steps: 2}}
checkpoints: {{every: 1}}
compilation_cache: {folder}/compiled
"""


@pytest.fixture
def started(published, tmp_path):
    """A config that starts from a copy of the published model."""
    runs.write_ids(tmp_path)
    shutil.copytree(published, tmp_path / "source")
    config = tmp_path / "start.yaml"
    config.write_text(START.format(folder=tmp_path, source=tmp_path / "source"))
    return config


def test_a_start_that_does_not_fit_leaves_no_run(started, tmp_path):
    for change, match in (
        ("model.num_layers=3", "layers.2.input_layernorm.weight: missing"),
        ("model.qk_norm=head", "no such weights: .*query_norm.*leave out the options"),
    ):
        with pytest.raises(ValueError, match=match):
            runs.start(started, tmp_path / "run", change)
        assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"layers\.2\.input_layernorm\.weight: missing"):
        train(load_config(started, ["model.num_layers=3"]), dry_run=True)


def test_a_tokenizer_larger_than_published_weights_says_what_helps(started, tmp_path):
    text = started.read_text().replace("vocab_size: 60", f"vocab_size: {VOCAB + 1}")
    started.write_text(text)
    with pytest.raises(ValueError, match=r"vocab_size is 264, .* use 265 ids.* of this model"):
        runs.start(started, tmp_path / "run")


def test_a_run_goes_on_without_what_it_started_from(started, tmp_path):
    assert runs.start(started, tmp_path / "run", "training.steps=1") == 0
    shutil.rmtree(tmp_path / "source")
    assert runs.start(started, tmp_path / "run", "training.steps=2") == 0
    assert list(losses(tmp_path / "run")) == [1, 2]
    with pytest.raises(ValueError, match=r"init_from: .*is no model folder"):
        runs.start(started, tmp_path / "other")


def test_an_import_is_trained_from_anywhere(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_model(published, Path("here"), [])
    assert read_config(Path("here")).run_dir == str(tmp_path / "here")
    with pytest.raises(ValueError, match="override 'run_dir=elsewhere'"):
        import_model(published, Path("there"), ["run_dir=elsewhere"])


def test_a_fresh_import_is_inspected(imported, capsys):
    inspect(str(imported), [], rows=1)
    shown = capsys.readouterr().out
    assert "embed.table" in shown
    assert "data.datasets is empty" in shown
