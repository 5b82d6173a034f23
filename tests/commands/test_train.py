import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from jaxllm.commands import run_folder
from jaxllm.commands.evaluate import evaluate
from jaxllm.commands.train import train
from jaxllm.commands.validation import Validation
from jaxllm.config import load_config
from jaxllm.config_files import find_config

from . import runs


def test_a_run_folder_holds_what_scripts_rely_on(finished, text):
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "tokenizer",
        "datasets.json",
        "profile",
        "goodput.jsonl",
        "heartbeat",
        ".lease",
    }
    # config.yaml is the resolved config: given as it is, it is the same run.
    given = load_config(text, [f"run_dir={finished}"])
    assert load_config(finished / "config.yaml") == given
    assert yaml.safe_load((finished / "config.yaml").read_text())["optim"]["clip_norm"] == 1.0
    assert runs.checkpoints(finished) == [4, 6]


def test_every_training_record_has_the_figures(finished):
    training = [record for record in runs.records(finished) if "loss" in record]
    assert [record["step"] for record in training] == [1, 2, 3, 4, 5, 6]
    for record in training:
        assert {
            "learning_rate",
            "gradient_norm",
            "tokens_per_second",
            "tokens_per_second_per_device",
            "data_wait_share",
            "memory_bytes",
        } <= record.keys()
        assert record["tokens_per_second"] > 0
        assert record["num_tokens"] == 8 * 32
        # Full precision: the number in the file is the float32 that was computed.
        assert float(np.float32(record["loss"])) == record["loss"]
    assert training[0]["learning_rate"] == 0.0  # the warmup starts at zero
    assert training[2]["learning_rate"] == pytest.approx(0.01, rel=1e-6)  # a float32 of 0.01
    assert runs.tensorboard_steps(finished) == [1, 2, 3, 4, 5, 6]


def test_each_validation_set_is_scored_by_name_and_together(finished):
    scored = [record for record in runs.records(finished) if "validation_loss" in record]
    assert [record["step"] for record in scored] == [3, 6]
    for record in scored:
        assert {"validation_bits_per_byte", "validation/plain/loss", "validation/other/loss"} <= (
            record.keys()
        )
        each = [record["validation/plain/loss"], record["validation/other/loss"]]
        assert min(each) < record["validation_loss"] < max(each)
    assert runs.tensorboard_steps(finished, "validation/other/loss") == [3, 6]


def test_samples_are_recorded_for_each_prompt(finished):
    samples = [record for record in runs.records(finished) if "sample" in record]
    assert [(record["step"], record["prompt"]) for record in samples] == [
        (3, "the "),
        (3, "war"),
        (6, "the "),
        (6, "war"),
    ]


def test_the_summary_tells_the_end(finished):
    summary = json.loads((finished / "summary.json").read_text())
    last = [record for record in runs.records(finished) if "validation_loss" in record][-1]
    assert summary["steps"] == 6
    assert summary["tokens"] == 6 * 8 * 32
    assert summary["validation_loss"] == last["validation_loss"]
    assert summary["validation_bits_per_byte"] == last["validation_bits_per_byte"]
    assert summary["tokens_per_second"] > 0
    assert summary["wall_seconds"] > 0
    assert summary["sample"].startswith("the ")


def test_the_profiler_leaves_a_trace_of_its_window(finished):
    assert list((finished / "profile").rglob("*.xplane.pb"))


def test_a_finished_run_says_so_and_changes_nothing(finished, text, capsys):
    before = runs.contents(finished)
    assert runs.start(text, finished) == 0
    assert runs.contents(finished) == before
    assert "done        6 steps" in capsys.readouterr().out


def test_a_run_with_everything_but_its_summary_gets_it(finished, text, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(finished, run_dir)
    (run_dir / "summary.json").unlink()
    before = runs.contents(run_dir)
    assert runs.start(text, run_dir) == 0
    after = runs.contents(run_dir)
    summary = json.loads(after.pop("summary.json"))
    first = json.loads((finished / "summary.json").read_text())
    for key in ("steps", "tokens", "validation_loss", "validation_bits_per_byte", "sample"):
        assert summary[key] == first[key], key
    assert after["metrics.jsonl"] == before["metrics.jsonl"]
    assert runs.checkpoints(run_dir) == [4, 6]


def compiled(caplog):
    """What `jax.log_compiles` has seen compiled."""
    return [text for text in caplog.messages if text.startswith("Finished XLA compilation")]


def test_a_dry_run_computes_and_writes_nothing(ids, tmp_path, caplog, capsys):
    config = load_config(ids, [f"run_dir={tmp_path}/run"])
    with jax.log_compiles():
        assert train(config, dry_run=True) == 0
    assert not compiled(caplog)
    assert not (tmp_path / "run").exists()
    assert "dry run" in capsys.readouterr().out


def test_a_dry_run_goes_as_far_as_it_can_without_its_data(ids, tmp_path, caplog, capsys):
    overrides = [f"run_dir={tmp_path}/run", "data.datasets.ids.train=nowhere.bin"]
    with jax.log_compiles():
        assert train(load_config(ids, overrides), dry_run=True) == 0
    assert not compiled(caplog)
    shown = capsys.readouterr().out
    assert "not there yet: data.datasets.ids.train: there is no token file nowhere.bin\n" in shown
    assert "dry run: everything fits but the data" in shown
    assert not (tmp_path / "run").exists()
    (tmp_path / "odd.bin").write_bytes(b"odd")
    wrong = [
        (
            "model.vocab_size=32",
            "model.vocab_size is 32, but the data and .* use 60",
        ),
        ("model.attention=cudnn", "model.attention"),
        (f"data.datasets.ids.validation={tmp_path}/odd.bin", "odd.bin is empty or truncated"),
    ]
    for override, message in wrong:
        with pytest.raises(ValueError, match=message):
            train(load_config(ids, [*overrides, override]), dry_run=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.global_batch_size=12"], "data.global_batch_size: 12 rows do not divide"),
        (["model.embed_dim=36"], "embed of size 36 cannot be cut in 8"),
        (["parallel.tensor=3"], "but there are 8; change the degrees"),
        (
            ["model.vocab_size=32"],
            "model.vocab_size is 32, but the data and .* use 60",
        ),
        (["data.sequence_length=5000"], "change `data.sequence_length`"),
        (["data.datasets.ids.train=nowhere.bin"], "there is no token file nowhere.bin"),
        (["model.attention=cudnn"], "model.attention"),
        (["samples.every=2"], "samples.every is set, but the data has no tokenizer"),
        (["evaluation.every=2"], "evaluation.every is 2, but no dataset has a validation split"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_compiles(
    ids, tmp_path, caplog, overrides, message
):
    with jax.log_compiles(), pytest.raises(ValueError, match=message):
        runs.start(ids, tmp_path / "run", *overrides)
    assert not compiled(caplog)
    assert not (tmp_path / "run").exists()


def test_samples_that_do_not_fit_the_model_are_refused_at_once(text, tmp_path):
    learned = ("model.positions=learned", "model.max_length=32")
    message = "samples.prompts with samples.sampling.max_tokens is 35, but the model has 32"
    with pytest.raises(ValueError, match=message):
        runs.start(text, tmp_path / "run", *learned, "samples.sampling.max_tokens=30")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_cannot_be_made_is_named(ids):
    with pytest.raises(ValueError, match=r"run_dir /dev/null/run cannot be made"):
        runs.start(ids, "/dev/null/run")


def test_fewer_steps_than_the_run_has_are_refused(uninterrupted, ids, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    before = runs.contents(run_dir)
    with pytest.raises(ValueError, match=r"training.steps is 4, but .* is at step 8 already"):
        runs.start(ids, run_dir, "training.steps=4")
    assert runs.contents(run_dir) == before


def test_a_finished_run_is_shown_and_stays_as_it_is(uninterrupted, ids, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(uninterrupted, run_dir)
    before = runs.contents(run_dir)
    assert runs.start(ids, run_dir, "checkpoints.every=2") == 0
    assert runs.contents(run_dir) == before


def test_the_loop_reads_the_metrics_of_each_record_and_nothing_else(ids, tmp_path, monkeypatch):
    """The transfer guard misses on a CPU what comes to the host."""
    array_type, reads = type(jnp.ones(())), []
    plain = array_type._value.fget
    monkeypatch.setattr(
        array_type, "_value", property(lambda array: reads.append(array) or plain(array))
    )
    assert runs.start(ids, tmp_path / "run", "checkpoints.every=null") == 0
    records = runs.records(tmp_path / "run")
    judged = {"loss", "gradient_norm", "is_skipped", "skipped_in_a_row"}
    figures = judged | {"objective", "learning_rate", "num_tokens", "skipped_steps"}
    assert figures <= records[0].keys()
    # Once for the record, and once for the verdict on the step, which every process reads.
    assert len(reads) == len(records) * (len(figures) + len(judged))
    assert all(array.ndim == 0 for array in reads)


def test_a_score_that_fails_loses_no_steps(ids, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("a validation shard is corrupt")

    monkeypatch.setattr(Validation, "run", fail)
    with pytest.raises(ValueError, match="a validation shard is corrupt"):
        runs.start(ids, tmp_path / "run")
    assert runs.checkpoints(tmp_path / "run") == [3]


def test_sizes_that_do_not_fit_are_refused_before_text_is_tokenised(text, tmp_path):
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=r"cannot be cut in 8 \(parallel.tensor\)"):
        runs.start(text, tmp_path / "run", f"data.root={root}", "parallel.tensor=8")
    assert not root.exists()


def test_a_run_shorter_than_its_log_interval_has_a_summary(ids, tmp_path):
    assert runs.start(ids, tmp_path / "run", "metrics.log_every=100") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["tokens_per_second"] > 0
    assert runs.losses(tmp_path / "run") == []


@pytest.mark.slow
def test_a_loss_that_is_no_number_leaves_valid_json(text, tmp_path):
    run_dir = tmp_path / "run"
    ruin = ("optim.learning_rate=1e30", "optim.clip_norm=null", "training.anomalies=null")
    assert runs.start(text, run_dir, *ruin) == 0

    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads((run_dir / "summary.json").read_text(), parse_constant=refuse)
    assert summary["validation_loss"] == "NaN"


def test_the_raw_text_is_not_needed_once_it_is_tokenised(text, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(text.parent / "a", folder / "a")
    shutil.copytree(text.parent / "b", folder / "b")
    config = folder / "text.yaml"
    config.write_text(runs.TEXT_CONFIG.format(folder=folder))
    run_dir = tmp_path / "run"
    assert runs.start(config, run_dir) == 0
    shutil.rmtree(folder / "a")
    shutil.rmtree(folder / "b")
    (run_dir / "summary.json").unlink()
    assert runs.start(config, run_dir) == 0
    assert evaluate(run_dir).keys() == {"plain", "other"}


def test_the_log_of_compiles_would_show_one(caplog):
    with jax.log_compiles():
        jax.jit(lambda x: x * 3)(1.0)
    assert compiled(caplog)


def test_a_folder_of_other_things_is_refused_and_left_alone(ids, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="a folder with other things in it"):
        runs.start(ids, tmp_path)
    assert runs.contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_token_id_outside_the_vocabulary_is_named(ids, tmp_path):
    wrong = np.fromfile(ids.parent / "train.bin", np.uint16)
    wrong[:] = 60
    wrong.tofile(tmp_path / "wrong.bin")
    with pytest.raises(ValueError, match=r"token id 60 .*wrong\.bin.* outside the vocabulary"):
        runs.start(ids, tmp_path / "run", f"data.datasets.ids.train={tmp_path}/wrong.bin")


def prepared(text, tmp_path):
    """A copy of the folder that the text run prepared, and the overrides that train on it."""
    (source,) = (text.parent / "root").glob("plain-*/")
    folder = tmp_path / "copy"
    shutil.copytree(source, folder)
    return folder, [f"data.datasets={{plain: {{type: prepared, path: {folder}}}}}"]


@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_damaged_shard_is_named(finished, text, tmp_path, damage):
    folder, overrides = prepared(text, tmp_path)
    (shard,) = folder.glob("*-train.array_record-*")
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        del content[-100:]
    else:
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=rf"shard .*{shard.name} is truncated or corrupt"):
        runs.start(text, tmp_path / "run", *overrides)


def test_a_dataset_that_is_all_held_out_is_not_trained_on(text, tmp_path):
    with pytest.raises(ValueError, match=r"'plain' is all held out.*plain\.validation_every"):
        runs.start(
            text,
            tmp_path / "run",
            f"data.root={tmp_path}/root",
            "data.datasets.plain.validation_every=1",
        )
    assert not (tmp_path / "run").exists()


def test_a_dataset_made_with_another_tokenizer_is_refused(finished, text, tmp_path):
    _, overrides = prepared(text, tmp_path)
    other = "data.tokenizer={type: sentencepiece, vocab_size: 300}"
    own = "data.datasets.own={type: corpus, corpus: {type: text, paths: ['%s/a/*']}}"
    with pytest.raises(ValueError, match="made with another tokenizer"):
        runs.start(text, tmp_path / "run", *overrides, own % text.parent, other)
    assert not (tmp_path / "run").exists()


def test_the_averaged_weights_are_the_ones_evaluated(finished):
    """A score with the weights themselves would be another one."""
    trained = run_folder.open_model(finished)
    saved = runs.arrays(finished, 6)
    for part, is_equal in (("ema", True), ("weights", False)):
        same = [
            np.array_equal(leaf, saved[f"params['{part}']" + jax.tree_util.keystr(path)])
            for path, leaf in jax.tree.flatten_with_path(jax.device_get(trained.params))[0]
        ]
        assert all(same) is is_equal
    last = [record for record in runs.records(finished) if "validation_loss" in record][-1]
    assert last["validation_loss"] == pytest.approx(evaluated_loss(finished), rel=1e-7)


def evaluated_loss(run_dir):
    """The loss that `evaluate` finds, which reads the averaged weights."""
    from jaxllm.commands.evaluate import evaluate
    from jaxllm.evaluation import total

    return total(evaluate(run_dir).values()).loss


def test_an_implicit_transfer_inside_the_loop_raises(ids, tmp_path, monkeypatch):
    from jaxllm.training.step_log import StepLog

    push = StepLog.push

    def careless(self, step, metrics):
        push(self, step, {name: value + np.float32(1) for name, value in metrics.items()})

    monkeypatch.setattr(StepLog, "push", careless)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        runs.start(ids, tmp_path / "run")


def test_losses_fall(uninterrupted):
    (_, first), *_, (_, last) = runs.losses(uninterrupted)
    # A uniform guess among 64 rows of the embedding costs log 64; the start is near it.
    assert first == pytest.approx(math.log(64), rel=0.2)
    assert last < first


@pytest.mark.slow
def test_the_shipped_tiny_config_trains_60_steps_on_the_demos_data(tmp_path):
    run_dir = tmp_path / "run"
    folders = (f"data.root={tmp_path}/data", f"compilation_cache={tmp_path}/compiled")
    assert runs.start(find_config("test_tiny"), run_dir, *folders) == 0
    assert [step for step, _ in runs.losses(run_dir)] == list(range(1, 61))
    assert runs.checkpoints(run_dir) == [50, 60]
    # 512 pieces guessed evenly cost log 512 = 6.2 nats.
    assert json.loads((run_dir / "summary.json").read_text())["validation_loss"] < 5.5
