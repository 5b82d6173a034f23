import shutil

import jax
import pytest

from . import runs


@pytest.fixture(autouse=True, scope="package")
def quick_programs():
    """Programs of a few steps need no optimisation; what a run sets in JAX is undone after."""
    names = (
        "jax_disable_most_optimizations",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="package")
def ids(tmp_path_factory):
    """The config of 8 steps on random ids, saved at 3, 6 and 8: the cheapest run there is."""
    folder = tmp_path_factory.mktemp("ids")
    runs.write_ids(folder)
    config = folder / "ids.yaml"
    config.write_text(runs.IDS_CONFIG.format(folder=folder))
    return config


@pytest.fixture(scope="package")
def uninterrupted(ids):
    """The run of `ids` that nothing stopped. Read it only."""
    run_dir = ids.parent / "uninterrupted"
    assert runs.start(ids, run_dir) == 0
    return run_dir


@pytest.fixture
def unfinished(uninterrupted, tmp_path):
    """A copy of that run as it was after step 6, when it was killed."""
    run_dir = tmp_path / "unfinished"
    shutil.copytree(uninterrupted, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "8")
    (run_dir / "summary.json").unlink()
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(uninterrupted), str(run_dir)))
    return run_dir


@pytest.fixture(scope="package")
def text(tmp_path_factory):
    """The config of 6 steps on a few texts, with two validation sets and everything written."""
    folder = tmp_path_factory.mktemp("text")
    words = ("the", "war", "of", "peace", "and", "people", "with", "law", "for", "congress", "a")
    for name, shift in (("a", 1), ("b", 3)):
        (folder / name).mkdir()
        for number in range(8):
            chosen = (words[(number * i + shift * i * i) % len(words)] for i in range(120))
            (folder / name / f"{number}.txt").write_text(" ".join(chosen), encoding="utf-8")
    config = folder / "text.yaml"
    config.write_text(runs.TEXT_CONFIG.format(folder=folder))
    return config


@pytest.fixture(scope="package")
def finished(text):
    """The run of `text`, complete. Read it only."""
    run_dir = text.parent / "finished"
    assert runs.start(text, run_dir) == 0
    return run_dir
