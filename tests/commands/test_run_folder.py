"""What a run folder may hold before a run begins in it."""

import pytest

from jaxllm.commands import run_folder
from jaxllm.commands.lease import LEASE_FILE
from jaxllm.config import load_config
from jaxllm.config_files import find_config

# In the order in which a start makes them; the config is the last.
HALF_MADE = (
    LEASE_FILE,
    ".tokenizer.partial/tokenizer.json",
    "tokenizer/tokenizer.json",
    ".datasets.json.tmp",
    "datasets.json",
    ".config.yaml.tmp",
)


@pytest.fixture
def config(tmp_path):
    return load_config(find_config("test_tiny"), [f"run_dir={tmp_path}"])


def put(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()


def test_what_a_killed_start_left_is_a_new_run(tmp_path, config):
    for name in HALF_MADE:
        put(tmp_path, name)
        run_folder.check_config(tmp_path, config)


@pytest.mark.parametrize("name", ["thesis.txt", "tokenizer.json", "checkpoints/3", "metrics.jsonl"])
def test_any_other_file_is_refused_and_kept(tmp_path, config, name):
    for other in (*HALF_MADE, name):
        put(tmp_path, other)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="other things in it and no config"):
        run_folder.check_config(tmp_path, config)
    assert sorted(tmp_path.rglob("*")) == before
