import json

import pytest

from jaxllm import cli
from jaxllm.aot.report import BufferLine, Report
from jaxllm.aot.topology import parse_topology
from jaxllm.commands.compile import compile_config
from jaxllm.config import load_config

pytestmark = pytest.mark.libtpu

CONFIG = """
run_dir: {folder}/run
model: {{num_layers: 2, embed_dim: 256, num_heads: 2, mlp_dim: 512, remat: full}}
data:
  sequence_length: 256
  global_batch_size: 32
  root: {folder}/root
  datasets:
    ids: {{type: bin, train: {folder}/nowhere.bin, vocab_size: 512, delimiter_id: 0}}
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant, warmup_steps: 2}}}}
training: {{steps: 8}}
"""

KEYS = {
    "fits",
    "peak_hbm_gib",
    "hbm_limit_gib",
    "predicted_step_seconds",
    "predicted_mfu",
    "tokens_per_second_per_chip",
    "collectives",
    "compile_seconds",
    "topology",
    "chips",
    "versions",
}


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.fixture
def jaxllm(monkeypatch, capsys):
    """Runs a command line in this process: its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["jaxllm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_a_small_model_on_sixteen_chips(config_file, tmp_path, jaxllm):
    """The one whole program that the TPU compiler sees in these tests."""
    written, program = tmp_path / "report.json", tmp_path / "step.hlo"
    code, shown, _ = jaxllm(
        *("compile", config_file, "--topology", "v5e-16", "--json", written, "--hlo", program),
        *("parallel.tensor=2", "training.num_microbatches=2"),
    )
    report = json.loads(written.read_text())
    assert code == 0
    assert report.keys() >= KEYS
    assert report["fits"]
    assert (report["topology"], report["chips"], report["devices"]) == ("v5e:4x4", 16, 16)
    assert 0 < report["peak_hbm_gib"] < 1 < report["hbm_limit_gib"]
    parts = report["memory_gib"]
    assert sum(parts.values()) == pytest.approx(report["peak_hbm_gib"])
    # AdamW keeps two numbers a weight and both lie as the weight does; its counters are 8 bytes.
    assert parts["optimizer"] == pytest.approx(2 * parts["parameters"], abs=1e-6)
    low, high = report["predicted_step_seconds_range"]
    seconds = report["predicted_step_seconds"]
    assert 0 < low < seconds < high < 0.1
    assert sum(report["seconds_by_kind"].values()) == pytest.approx(seconds)
    assert report["tokens_per_second_per_chip"] == pytest.approx(32 * 256 / seconds / 16)
    assert 0 < report["predicted_mfu"] < 1
    check_collectives(report["collectives"], layers_and_parts=2 * 2)
    assert report["warnings"] == []
    assert "fits: " in shown
    assert "all-gather" in shown
    assert program.read_text().startswith("HloModule jit_train_step")


def check_collectives(lines, *, layers_and_parts):
    """Weights are gathered and gradients reduced along fsdp; activations cross tensor."""
    assert {tuple(line["axes"]) for line in lines} >= {("fsdp",), ("tensor",)}
    assert {axis for line in lines for axis in line["axes"]} == {"fsdp", "tensor"}
    gathers = [line for line in lines if line["kind"] == "all-gather" and line["axes"] == ["fsdp"]]
    # Seven matrices a layer, forward and again backward, if the compiler merges none.
    assert sum(line["count"] for line in gathers) >= layers_and_parts
    assert any(line["asynchronous"] for line in lines)
    for line in lines:
        assert line["bytes"] > 0
        assert 0 <= line["exposed_seconds"] <= line["seconds"] * 10


@pytest.mark.parametrize(
    ("topology", "overrides", "said"),
    [
        ("v5e:4x5", (), "topology v5e:4x5: the TPU compiler refuses it"),
        ("v5e:4x4", ("parallel.tensor=3",), "parallel.tensor=3 is 15 devices, but there are 16"),
        ("v5e:4x4", ("data.global_batch_size=8",), "data.global_batch_size: 8 rows do not divide"),
        (
            "v5e:4x4",
            ("parallel.tensor=4",),
            r"heads of size 2 cannot be cut in 4 \(parallel.tensor",
        ),
        (
            "v5e:4x4",
            ("parallel.context=4", "data.sequence_length=252"),
            "data.sequence_length: 252 positions do not divide in 8 parts",
        ),
        ("v5e:2x2", ("parallel.stage=4",), "model.num_layers is 2, which 4 stages x 1 rounds"),
        (
            "v5e:4x4",
            ("model.vocab_size=256",),
            "model.vocab_size is 256, but the data and the objective use 512 ids",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_compiling(
    topology, overrides, said, config_file, monkeypatch
):
    monkeypatch.setattr("jaxllm.commands.compile.compile_lowered", None)
    with pytest.raises(ValueError, match=said):
        compile_config(load_config(config_file, overrides), parse_topology(topology))


def test_the_vocabulary_must_be_known(config_file):
    text = config_file.read_text().replace(
        "ids: {type: bin,", "ids: {type: prepared, path: nowhere} #"
    )
    config_file.write_text(text)
    with pytest.raises(ValueError, match=r"model\.vocab_size: it is null"):
        compile_config(load_config(config_file), parse_topology("v5e:4x4"))


def test_a_step_that_does_not_fit_is_shown_with_what_takes_the_memory(
    config_file, tmp_path, jaxllm, monkeypatch
):
    fields = dict.fromkeys(Report.__dataclass_fields__)
    report = Report(
        **fields
        | {
            "fits": False,
            "peak_hbm_gib": 23.75,
            "hbm_limit_gib": 15.75,
            "memory_gib": {"parameters": 5.0, "temporaries": 18.75},
            "host_memory_gib": 0.0,
            "largest_buffers": (BufferLine(8.0, "f32[4,4]", "jaxllm/nn/mlp.py:61", "step/mul"),),
            "topology": "v5e:4x4",
            "num_slices": 1,
            "chips": 16,
            "mesh": {"fsdp": 16},
            "num_params": 1000,
            "num_active_params": 600,
            "tokens_per_step": 8192,
            "compile_seconds": 1.0,
            "versions": {"libtpu": "0"},
            "warnings": ("an option is gone",),
        }
    )
    monkeypatch.setattr("jaxllm.commands.compile.compile_config", lambda *_, **__: report)
    written = tmp_path / "report.json"
    code, shown, _ = jaxllm("compile", config_file, "--topology", "v5e-16", "--json", written)
    assert code == 1
    assert json.loads(written.read_text())["fits"] is False
    assert "does not fit: 23.75 of 15.75 GiB" in shown
    assert "1,000 parameters (600 for a token)" in shown
    assert "f32[4,4]" in shown
    assert "jaxllm/nn/mlp.py:61" in shown
    assert "an option is gone" in shown
    assert "predicted" not in shown


def test_files_that_cannot_be_written_are_refused_before_compiling(config_file, jaxllm):
    code, _, said = jaxllm(
        "compile", config_file, "--topology", "v5e-16", "--json", "no/where/report.json"
    )
    assert code == 2
    place = "--json no/where/report.json"
    assert said == f"error: {place}: there is no folder no/where to write into\n"
    code, _, said = jaxllm("compile", config_file, "--topology", "v5e-16", "--hlo", ".")
    assert (code, said) == (2, "error: --hlo .: that is a folder; give the name of a file\n")
