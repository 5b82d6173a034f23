"""Files of an enemy: paths that leave their folder, and what would run a program when read."""

import json
import pickle
import shutil

import pytest
import yaml
from commands import runs

from jaxllm.commands.export import export_model
from jaxllm.data.dataset_folder import SIDECAR
from jaxllm.hf.tensor_files import INDEX, SINGLE

from . import chaos

pytestmark = pytest.mark.faults

TAGS = ("object/apply:os.system ['touch {}']", "object/apply:builtins.open ['{}', 'w']")


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def canary(tmp_path):
    """A file that an attack would make, and makes where nothing is refused."""
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Canary(path))).close()
    path.unlink()
    for tag in TAGS:
        yaml.unsafe_load(f"!!python/{tag.format(path)}")
        path.unlink()
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def published(finished, tmp_path_factory):
    """That run as a folder of Hugging Face. Copy it."""
    out = tmp_path_factory.mktemp("published") / "model"
    export_model(finished, out, step=None, dtype="float32")
    return out


def hostile_models(published, folder, canary):
    """(what it is, the folder, what must be said) of weights that must not be read."""

    def copied(name):
        shutil.copytree(published, folder / name)
        return folder / name

    outside = folder / "secret.safetensors"
    shutil.copy(published / SINGLE, outside)
    for name in ("../secret.safetensors", str(outside)):
        model = copied(f"index{len(name)}")
        (model / SINGLE).unlink()
        (model / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
        yield f"an index with {name}", model, "not inside"
    model = copied("linked")
    (model / SINGLE).unlink()
    (model / SINGLE).symlink_to(outside)
    yield "a link to other weights", model, "outside of its folder"
    model = copied("pickled")
    (model / SINGLE).unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))
    yield "pickled weights", model, "pickled weights"


def test_hostile_models(published, tmp_path, canary, command, experiment):
    experiment.done = "published models with `../`, links that leave and pickles: refused"
    for number, (what, model, words) in enumerate(hostile_models(published, tmp_path, canary)):
        experiment.tries += 1
        code, said = command("import", model, tmp_path / f"out{number}")
        assert code == 2, (what, said)
        assert words in said, (what, said)
        assert not (tmp_path / f"out{number}" / "checkpoints").exists()


def test_hostile_datasets(finished, tmp_path, canary, command, ids, experiment):
    experiment.done = "datasets with `../` in the card and links that leave: refused"
    datasets = json.loads((finished / "datasets.json").read_text())
    for way in ("dots", "link"):
        folder = tmp_path / way / "dataset"
        shutil.copytree(datasets["plain"], folder)
        shard = next(folder.glob("*train.array_record*"))
        elsewhere = shard.rename(folder.parent / shard.name)
        if way == "dots":
            card = (folder / SIDECAR).read_text()
            (folder / SIDECAR).write_text(card.replace(shard.name, f"../{shard.name}"))
        else:
            shard.symlink_to(elsewhere)
        experiment.tries += 1
        run_dir = tmp_path / way / "run"
        dataset = f"data.datasets={{a: {{type: prepared, path: {folder}}}}}"
        code, said = command("train", ids, f"run_dir={run_dir}", dataset)
        assert code == 2, said
        assert "outside of" in said or "not inside of" in said, said
        assert not (run_dir / "checkpoints").exists()


def test_hostile_configs(ids, tmp_path, canary, command, experiment):
    experiment.done = "configs with YAML tags that call programs: refused"
    for tag in TAGS:
        config = tmp_path / "hostile.yaml"
        config.write_text(f"{ids.read_text()}\nseed: !!python/{tag.format(canary)}\n")
        for verb in ("train", "prepare"):
            experiment.tries += 1
            code, said = command(verb, config, f"run_dir={tmp_path}/run")
            assert code == 2
            assert "Traceback" not in said
        assert not (tmp_path / "run").exists()
        assert command("train", ids, f"run_dir=!!python/{tag.format(canary)}")[0] == 2


def test_hostile_checkpoints(ids, uninterrupted, unfinished, tmp_path, canary, experiment):
    experiment.done = "checkpoints with a pickle in place of, or a link out of, what was saved"
    folder = unfinished / "checkpoints"
    good = folder / "6"
    shutil.copytree(good, folder / "7")
    data = folder / "7" / "data" / "metadata"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    (folder / "8").mkdir()
    (folder / "8" / "params").write_bytes(pickle.dumps(Canary(canary)))
    experiment.tries += 2
    assert runs.start(ids, unfinished) == 0
    assert sorted(path.name for path in (folder / "quarantine").iterdir()) == ["7", "8"]
    experiment.bytes_lost += chaos.bytes_lost(unfinished, uninterrupted, step=8)
    runs.assert_same_run(unfinished, uninterrupted, step=8)
