"""Runs on pictures, on texts in pairs and on both: the same command and the same promises."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxllm.commands.batches import abstract_batch
from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.export import export_model
from jaxllm.commands.inspect import inspect
from jaxllm.commands.predict import predict
from jaxllm.commands.run_folder import open_model
from jaxllm.config import load_config
from jaxllm.hf.start import HfStart
from jaxllm.nn.param import spec_dict

from . import runs
from .interruptions import run_with_crash

SIZES = "num_layers: 2, embed_dim: 32, num_heads: 2, mlp_dim: 32"
PICTURE = "image_size: 8, patch_size: 4"
CONFIGS = {
    "pictures": f"""
model: {{{{type: vision, {SIZES}, {PICTURE}, dropout: 0.1, head: image, num_labels: 2}}}}
objective: {{{{type: image_classification, pixels: {{{{is_flipped: true}}}}}}}}
data:
  sequence_length: 5
  datasets:
    seen:
      type: pictures
      source: {{{{type: table, paths: ["{{folder}}/all.csv"],
               files: {{{{file: "{{folder}}/pictures/{{{{name}}}}.png"}}}}}}}}
      label: colour
      labels: [red, blue]
      size: 8
      validation_every: 3
""",
    "pairs": f"""
model: {{{{type: encoder, {SIZES}, max_length: 32, dropout: 0.1, head: pooler}}}}
objective: {{{{type: contrastive, is_symmetric: true}}}}
data:
  sequence_length: 24
  tokenizer: {{{{type: byte}}}}
  datasets:
    asked:
      type: text_pairs
      source: {{{{type: table, paths: ["{{folder}}/all.csv"]}}}}
      text: caption
      text_pair: answer
      validation_every: 3
""",
    "captions": f"""
model:
  type: two_towers
  projection_dim: 16
  text: {{{{{SIZES}, max_length: 32, positions: learned, norm: layer, use_bias: true, is_tied: true,
         is_gated: false, activation: gelu_sigmoid, dropout: 0.1}}}}
  vision: {{{{{SIZES}, {PICTURE}, activation: gelu_sigmoid, has_patch_bias: false,
           has_input_norm: true}}}}
objective: {{{{type: image_text}}}}
data:
  sequence_length: 24
  tokenizer: {{{{type: byte}}}}
  datasets:
    told:
      type: captions
      source: {{{{type: table, paths: ["{{folder}}/all.csv"],
               files: {{{{image: "{{folder}}/pictures/{{{{name}}}}.png"}}}}}}}}
      text: caption
      size: 8
      validation_every: 3
""",
}
REST = """  global_batch_size: 8
  root: {folder}/root
run_dir: {folder}/run
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: cosine, warmup_steps: 2}}}}
training: {{steps: 6}}
checkpoints: {{every: 2, keep_latest: 2}}
evaluation: {{every: 3}}
compilation_cache: {folder}/compiled
"""
kinds = pytest.mark.parametrize("kind", CONFIGS)


def pixels(number):
    """Red or blue, with noise."""
    random = np.random.default_rng(number)
    values = random.integers(0, 90, (8, 8, 3), np.uint8)
    values[..., 2 * (number % 2)] += 120
    return values


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """The config of each kind, on the same pictures and what is written of them."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "pictures").mkdir()
    lines = ["name,colour,caption,answer"]
    for number in range(60):
        Image.fromarray(pixels(number)).save(folder / "pictures" / f"{number}.png")
        colour = ("red", "blue")[number % 2]
        lines.append(f"{number},{colour},a {colour} one {number},it is {colour} {number}")
    (folder / "all.csv").write_text("\n".join(lines) + "\n")
    for kind, config in CONFIGS.items():
        (folder / f"{kind}.yaml").write_text((config + REST).format(folder=folder))
    return {kind: folder / f"{kind}.yaml" for kind in CONFIGS}


@pytest.fixture(scope="module")
def finished(configs):
    """Runs that nothing stopped, by their kinds. Read them only."""
    done = {}

    def of(kind):
        if kind not in done:
            run_dir = configs[kind].parent / f"finished-{kind}"
            assert runs.start(configs[kind], run_dir) == 0
            done[kind] = run_dir
        return done[kind]

    return of


@pytest.mark.slow
@kinds
def test_resumed_it_is_the_uninterrupted_run(configs, finished, kind, tmp_path):
    run_dir = run_with_crash(5, configs[kind], tmp_path / "run")
    runs.assert_same_run(run_dir, finished(kind), step=6)
    one, other = (
        [record for record in runs.records(folder) if "validation_loss" in record]
        for folder in (run_dir, finished(kind))
    )
    assert one == other


@pytest.mark.slow
@kinds
def test_its_figures_are_in_metrics_and_summary_and_the_same_again(finished, kind):
    scored = [one for one in runs.records(finished(kind)) if "validation_loss" in one]
    assert [one["step"] for one in scored] == [3, 6]
    summary = json.loads((finished(kind) / "summary.json").read_text())
    names = {
        "pictures": ("accuracy", "macro_f1"),
        "pairs": ("recall_at_1", "recall_at_5", "mean_reciprocal_rank"),
        "captions": ("recall_at_1", "recall_at_5", "mean_reciprocal_rank"),
    }
    for name in names[kind]:
        assert summary[name] == scored[-1][f"validation_{name}"]
        assert 0 <= summary[name] <= 1
    (score,) = evaluate(finished(kind)).values()
    # The same sums over the same devices: float32 rounding.
    assert score.loss == pytest.approx(summary["validation_loss"], rel=1e-6)
    assert score.num_tokens == 20


@pytest.mark.slow
@kinds
def test_exported_it_has_the_same_weights(finished, kind, tmp_path):
    export_model(finished(kind), tmp_path / "out", step=None, dtype="float32")
    trained = open_model(finished(kind))
    start = HfStart(path=str(tmp_path / "out"))
    config = type(trained.config.model).model_validate(start.model())
    specs = spec_dict(trained.parts.model)
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = jax.tree.map(lambda spec: place, specs)
    found = start.weights(config, specs=specs, shardings=shardings)
    jax.tree.map(np.testing.assert_array_equal, found, trained.params)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("tokenizer.json" in files) == (kind != "pictures")


@pytest.mark.slow
def test_vectors_of_texts_and_classes_of_pictures_are_told(finished, tmp_path):
    asked = tmp_path / "asked.jsonl"
    texts = ["a red one 3", "something else", "a red one 3"]
    asked.write_text("".join(json.dumps({"caption": text}) + "\n" for text in texts))
    predict(finished("pairs"), asked, tmp_path / "vectors.jsonl")
    lines = (tmp_path / "vectors.jsonl").read_text().splitlines()
    first, other, same = (np.array(json.loads(line)["embedding"]) for line in lines)
    np.testing.assert_allclose(np.linalg.norm([first, other], axis=1), 1, rtol=1e-6)  # rounding
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3

    import pyarrow
    import pyarrow.parquet

    def file(number):
        target = io.BytesIO()
        Image.fromarray(pixels(number)).save(target, "png")
        return target.getvalue()

    table = pyarrow.table({"file": [file(number) for number in (100, 101)]})
    pyarrow.parquet.write_table(table, tmp_path / "new.parquet")
    predict(finished("pictures"), tmp_path / "new.parquet", tmp_path / "classes.jsonl")
    lines = (tmp_path / "classes.jsonl").read_text().splitlines()
    assert [set(json.loads(line)["probabilities"]) for line in lines] == [{"red", "blue"}] * 2


@kinds
def test_what_it_reads_is_shown_and_has_the_shapes_that_the_config_tells(configs, kind, capsys):
    config = load_config(configs[kind])
    inspect(str(configs[kind]), rows=1)
    told = " ".join(capsys.readouterr().out.split())
    if kind == "pictures":
        assert "row 0 of batch 0: red" in told or "row 0 of batch 0: blue" in told
        assert "vocabulary" not in told
    if kind != "pairs":
        assert "picture of 8 x 8 x 3" in told
    if kind != "pictures":
        assert "a red one" in told or "a blue one" in told
    if kind == "pairs":
        assert "it is red" in told or "it is blue" in told
    batch = config.data.build().train_loader(seed=0).batch(0)
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in abstract_batch(config).items()
    }


@pytest.mark.parametrize(
    ("kind", "override", "message"),
    [
        ("pictures", "data.sequence_length=6", r"has 5 positions, .* set data\.sequence_length=5"),
        ("pictures", "model.head=pooler", r"needs model\.head=image, but it is pooler"),
        ("pictures", "model.num_labels=3", r"model\.num_labels=3, but data\.datasets\.seen has 2"),
        ("pictures", "data.datasets.seen.size=12", r"seen\.size=12, but model\.image_size=8"),
        ("pictures", "model.num_channels=1", r"num_channels=3, but model\.num_channels=1"),
        ("pictures", "objective.pixels.std=[0.1, 0.2]", r"pixels\.std has 2 numbers"),
        (
            "pictures",
            "objective={type: contrastive}",
            r"trains model\.type=encoder, but model\.type=",
        ),
        ("pictures", "samples.every=3", r"a model of type vision continues no text"),
        ("pairs", "training.num_microbatches=2", "tells each pair from all others of the batch"),
        ("pairs", "model.head=masked_lm", r"needs model\.head=none or pooler, but it is masked_lm"),
        ("pairs", "data.sequence_length=33", r"data\.sequence_length is 33, but the model has 32"),
        ("captions", "training.num_microbatches=2", "tells each pair from all others"),
        ("captions", "data.sequence_length=33", r"data\.sequence_length is 33, but the model has"),
        ("captions", "data.datasets.told.size=4", r"told\.size=4, but model\.vision\.image_size=8"),
    ],
)
def test_what_does_not_fit_is_refused(configs, kind, override, message):
    changes = [override]
    if override == "model.head=pooler":
        changes.append("model.num_labels=null")
    with pytest.raises(ValueError, match=message):
        load_config(configs[kind], changes)
