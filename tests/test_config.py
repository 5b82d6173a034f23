import pytest
import yaml

from jaxllm.config import dump_yaml, load_config, non_defaults
from jaxllm.config_files import find_config, shipped_configs

RAW = {
    "run_dir": "runs/x",
    "model": {"num_layers": 2, "embed_dim": 32},
    "data": {
        "sequence_length": 16,
        "global_batch_size": 8,
        "tokenizer": {"type": "byte"},
        "datasets": {"web": {"type": "corpus", "corpus": {"type": "text", "paths": ["*.txt"]}}},
    },
    "optim": {"type": "adamw", "learning_rate": 0.01, "schedule": {"type": "cosine"}},
    "training": {"steps": 100},
}


@pytest.fixture
def write(tmp_path):
    """Writes a config file: text as it is, anything else as YAML."""

    def write(content=RAW):
        path = tmp_path / "run.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def load(write):
    """Loads RAW with overrides."""
    return lambda *overrides: load_config(write(), overrides)


def refusal(load, *overrides):
    with pytest.raises(ValueError) as refused:
        load(*overrides)
    return str(refused.value)


def test_defaults_fill_what_is_not_given(load):
    config = load()
    assert config.model.num_layers == 2
    assert config.model.norm == "rms"
    assert config.optim.type == "adamw"
    assert config.checkpoints.every == 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("seed: 1\nrun_dir: x\nseed: 2\n", "line 3: the key 'seed' is given twice"),
        ("model: {dropout: 0.1, dropout: 0.2}\n", "line 1: the key 'dropout' is given twice"),
        ("- 1\n- 2\n", "a config is a mapping of keys, this is list"),
        ("", "a config is a mapping of keys, this is NoneType"),
        ("just words", "a config is a mapping of keys, this is str"),
        ("a: [1, 2\n", "cannot be read as YAML"),
        ("a: b: c\n", "cannot be read as YAML"),
        ("? {a: 1}\n: 2\n", "cannot be read as YAML"),
    ],
)
def test_what_is_no_config_is_told_so(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=r"run\.yaml: ") as refused:
        load_config(path)
    assert message in str(refused.value)


def test_bytes_that_are_no_text_are_told_so(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        load_config(tmp_path / "run.yaml")


def test_yaml_tags_create_nothing(write, tmp_path):
    made = tmp_path / "made"
    tag = (
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{made}']]"
    )
    with pytest.raises(ValueError, match="could not determine a constructor"):
        load_config(write(f"run_dir: {tag}\n"))
    with pytest.raises(ValueError, match="the value is not YAML"):
        load_config(write(), [f"run_dir={tag}"])
    assert not made.exists()


def test_overrides_are_yaml_and_reach_any_depth(load):
    config = load(
        "training.steps=7",
        "optim.schedule={type: wsd, decay_fraction: 0.5}",
        "samples.prompts=[a, 'b=c']",
        "training.ema.decay=0.5",
        "data.datasets.more={type: synthetic, weight: 2}",
        "run_dir=runs/a.b",
        "metrics.tensorboard=false",
        "compilation_cache=",
    )
    assert config.training.steps == 7
    assert config.optim.schedule.decay_fraction == 0.5
    assert config.samples.prompts == ("a", "b=c")
    assert config.training.ema.decay == 0.5
    assert list(config.data.datasets) == ["web", "more"]
    assert config.run_dir == "runs/a.b"
    assert config.metrics.tensorboard is False
    assert config.compilation_cache is None


def test_a_section_without_its_type_is_of_the_default_kind(write):
    path = write(RAW | {"optim": {"type": "adamw"}})
    schedule = load_config(path, ["optim.schedule.warmup_steps=2"]).optim.schedule
    assert (schedule.type, schedule.warmup_steps) == ("cosine", 2)
    path = write(RAW | {"optim": {"type": "adamw", "schedule": {"type": "wsd"}}})
    assert load_config(path, ["optim.schedule.warmup_steps=2"]).optim.schedule.type == "wsd"


def test_the_last_override_of_a_key_wins(load):
    assert load("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("override", ["training.steps", "=3", "training..steps=3", ".seed=1", ""])
def test_an_override_without_key_and_value_shows_how_it_is_written(load, override):
    message = refusal(load, override)
    assert f"override {override!r}: write key.path=value" in message


def test_an_override_through_a_value_names_it(load):
    message = refusal(load, "training.steps.more=3")
    assert "override 'training.steps.more=3': training.steps is 100, it has no keys" in message


def test_an_override_that_is_no_yaml_is_shown(load):
    assert "override 'seed=[1': the value is not YAML" in refusal(load, "seed=[1")


def test_the_resolved_config_loads_as_itself(load, write):
    config = load("optim.type=muon", "metrics.loggers=[{type: trackio, project: p}]")
    again = load_config(write(dump_yaml(config)))
    assert again == config
    assert hash(again) == hash(config)
    assert "rope_theta" in dump_yaml(config)


def test_only_what_differs_from_the_defaults_is_shown(load):
    shown = non_defaults(load("seed=3", "model.norm=rms"))
    assert shown["seed"] == 3
    assert shown["model.num_layers"] == 2
    assert "model.norm" not in shown
    assert "checkpoints.every" not in shown


def test_a_config_is_frozen(load):
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 2


def test_everything_that_does_not_fit_together_is_listed_at_once(load):
    wrong = (
        "training.num_microbatches=3",
        "optim.schedule.warmup_steps=200",
        "model.positions=learned",
        "model.max_length=8",
        "profile.start=99",
        "evaluation.compare_xz=true",
        "data.datasets.web.validation_every=0",
    )
    with pytest.raises(ValueError, match="5 problems in the config") as refused:
        load(*wrong)
    for key in ("num_microbatches", "warmup_steps", "max_length", "profile.start", "compare_xz"):
        assert key in str(refused.value)


def test_the_kinds_that_were_chosen_are_shown(load):
    shown = non_defaults(load())
    assert shown["optim.type"] == "adamw"
    assert shown["data.tokenizer.type"] == "byte"
    assert shown["data.datasets.web.corpus.type"] == "text"
    assert "model.type" not in shown, "a decoder is the usual one"
    assert (
        non_defaults(load("model={type: encoder}", "objective={type: masked_lm}"))["model.type"]
        == "encoder"
    )


def test_a_mapping_of_plain_values_is_shown_as_one(load):
    shown = non_defaults(load("xla_flags={xla_dump_to: dump, xla_other: null}"))
    assert shown["xla_flags"] == {"xla_dump_to": "dump", "xla_other": None}


@pytest.mark.parametrize("scored", ["evaluation.every=null", "evaluation.every=3"])
def test_the_best_checkpoints_need_a_score_each(load, scored):
    load("checkpoints.keep_best=1", "checkpoints.every=4", "evaluation.every=2")
    with pytest.raises(ValueError, match=r"checkpoints.every=4 is no multiple of evaluation"):
        load("checkpoints.keep_best=1", "checkpoints.every=4", scored)


def test_a_config_is_found_by_path_or_shipped_name(write, tmp_path, monkeypatch):
    path = write()
    assert find_config(str(path)) == path
    assert find_config("demo") == shipped_configs()["demo"]
    assert find_config("configs/demo.yaml").samefile(shipped_configs()["demo"])
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/demo.yaml") == shipped_configs()["demo"]
    for wrong in ("my/demo.yaml", "demo.json", "runs/demo"):
        with pytest.raises(ValueError, match="no config file"):
            find_config(wrong)
    with pytest.raises(ValueError, match=r"no config file 'demmo'; give a path, or .*demo.*tiny"):
        find_config("demmo")
