"""tpu/skypilot.yaml: its fields, its commands, and the slice that its config was compiled for."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from jaxllm.config import load_config
from jaxllm.config_files import find_config
from jaxllm.exit_codes import EXIT_INTERRUPTED
from jaxllm.hardware import TPUS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "tpu" / "skypilot.yaml").read_text(encoding="utf-8")
TASK = yaml.safe_load(TEXT)
SCHEMA = yaml.safe_load(
    (Path(__file__).parent / "skypilot_schema.yaml").read_text(encoding="utf-8")
)
PODS = json.loads((ROOT / "tests" / "golden" / "pods.json").read_text(encoding="utf-8"))


def test_every_field_is_one_that_skypilot_knows():
    jsonschema.validate(TASK, SCHEMA)


@pytest.mark.parametrize(
    ("word", "misspelt"),
    [
        ("job_recovery:", "jobs_recovery:"),
        ("recover_on_exit_codes: [75]", "recover_on_exit_codes: 75.5"),
        ("runtime_version:", "runtime:"),
        ("envs:", "env:"),
        ("ref:", "commit:"),
        ("FAILOVER", "FAIL_OVER"),
    ],
)
def test_a_misspelt_word_is_seen(word, misspelt):
    assert word in TEXT
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(TEXT.replace(word, misspelt)), SCHEMA)


def test_only_an_interruption_is_tried_again():
    recovery = TASK["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [EXIT_INTERRUPTED]
    assert recovery["max_restarts_on_errors"] == 0


def test_the_slice_is_the_one_that_the_config_was_compiled_for():
    pod = TASK["resources"]["accelerators"].removeprefix("tpu-").replace("v5litepod", "v5e")
    proved = PODS[TASK["envs"]["CONFIG"]]
    generation = pod.split("-")[0]
    assert proved["topology"] == f"{generation}:{TPUS[generation].pods[pod]}"
    assert proved["num_slices"] == 1
    runtime = TASK["resources"]["accelerator_args"]["runtime_version"]
    settings = (ROOT / "tpu" / "settings.env.example").read_text(encoding="utf-8")
    assert f"{runtime} for {generation}" in settings.replace("\n# ", " ")


def test_the_command_makes_the_config_of_a_run():
    command = TASK["run"].replace("\\\n", " ")
    for name, value in TASK["envs"].items():
        command = command.replace(f"${name}", value)
    assert "$" not in command
    arguments = shlex.split(command)
    assert arguments[:3] == ["exec", ".venv/bin/jaxllm", "launch"]
    config = load_config(find_config(arguments[3]), arguments[4:])
    assert config.run_dir == f"gs://BUCKET/runs/{TASK['envs']['CONFIG']}"
    assert config.data.datasets["web"].path == TASK["envs"]["DATASET"]


@pytest.mark.parametrize("block", ["setup", "run"])
def test_a_block_is_a_sound_script_of_files_that_are_there(block):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC2154: the variables that SkyPilot sets from `envs`.
    done = subprocess.run(
        [shellcheck, "--shell=bash", "--exclude=SC2154", "-"],
        input=TASK[block],
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    for name in re.findall(r"\S+\.(?:sh|lock)\b", TASK[block]):
        assert (ROOT / name).is_file(), name
