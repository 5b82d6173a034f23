from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from jaxllm.commands.run_folder import (
    check_config,
    checkpoint_folder,
    enable_compilation_cache,
    has_checkpoint,
    place_of,
)
from jaxllm.commands.run_place import RunPlace, open_to_read
from jaxllm.config import load_config
from jaxllm.storage.mirror import mirror_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def url(bucket):
    """A run in a bucket."""
    for name in ("config.yaml", "metrics.jsonl", "tensorboard/events", "profile/large"):
        bucket.put(f"run/{name}", name.encode())
    return f"{bucket.url}/run"


def test_a_run_on_this_machine_is_where_it_is(tmp_path):
    with open_to_read(tmp_path / "run") as folder:
        assert folder == tmp_path / "run"
    with RunPlace(str(tmp_path / "run")) as place:
        assert (place.path, place.origin) == (tmp_path / "run", None)
        place.refresh()
        place.share()
        with place.sending(must_send=True, say=pytest.fail):
            place.send()
    assert not list(tmp_path.iterdir())
    assert place_of(place.path) == str(tmp_path / "run")
    assert checkpoint_folder(place.path) == tmp_path / "run" / "checkpoints"


def test_a_reader_has_a_copy_of_its_own_which_goes_away(url, bucket):
    with open_to_read(Path(url)) as folder, open_to_read(url) as other:
        assert folder.name == "run"
        assert folder != other
        assert (folder / "metrics.jsonl").read_bytes() == b"metrics.jsonl"
        assert place_of(folder) == url
        assert str(checkpoint_folder(folder)) == f"{url}/checkpoints"
        assert not (folder / "tensorboard").exists(), "nothing reads it"
    assert not folder.exists()
    assert not mirror_folder(url).exists()


def test_a_trainer_has_a_mirror_that_stays(url, bucket):
    with RunPlace(url) as place:
        assert place.path == mirror_folder(url)
        assert (place.path / "tensorboard" / "events").is_file(), "it is cut back"
        assert not (place.path / "profile").exists()
        with place.sending(must_send=True, say=pytest.fail):
            (place.path / "metrics.jsonl").write_text("more")
            place.send()
            assert bucket.files("run")["metrics.jsonl"] == b"more"
            (place.path / "summary.json").write_text("{}")
    assert bucket.files("run")["summary.json"] == b"{}"
    assert bucket.files("run")["profile/large"] == b"profile/large"
    assert (mirror_folder(url) / "metrics.jsonl").read_text() == "more"


def test_one_that_only_looks_leaves_the_mirror_of_a_trainer_alone(url, bucket):
    with RunPlace(url) as trainer:
        (trainer.path / "metrics.jsonl").write_text("not sent yet")
        with RunPlace(url, is_kept=False) as looker:
            assert (looker.path / "metrics.jsonl").read_bytes() == b"metrics.jsonl"
        assert (trainer.path / "metrics.jsonl").read_text() == "not sent yet"
    assert not looker.path.exists()


def test_where_records_must_be_there_a_save_does_not_begin_without_them(url, bucket, quick_retries):
    with RunPlace(url) as place, place.sending(must_send=True, say=pytest.fail):
        (place.path / "metrics.jsonl").write_text("more")
        bucket.faults.next(503, method="POST", times=None)
        with pytest.raises(OSError, match=f"{url}/metrics.jsonl: the bucket could not be reached"):
            place.send()
        bucket.faults.clear()


def test_where_a_run_goes_on_without_them_it_says_so(url, bucket, quick_retries):
    said = []
    with RunPlace(url) as place, place.sending(must_send=False, say=said.append):
        (place.path / "metrics.jsonl").write_text("more")
        bucket.faults.next(503, method="POST", times=None)
        place.send()
        place.send()
        assert len(said) == 1
        bucket.faults.clear()
    assert bucket.files("run")["metrics.jsonl"] == b"more"


def test_a_step_that_is_not_complete_is_no_checkpoint(url, bucket):
    with open_to_read(url) as folder:
        assert not has_checkpoint(folder)
        bucket.put("run/checkpoints/3/params/a", b"")
        assert not has_checkpoint(folder)
        bucket.put("run/checkpoints/3/commit_success.txt", b"")
        assert has_checkpoint(folder)


def test_what_a_killed_start_left_is_a_new_run(ids, bucket):
    """Without the config, which is sent last."""
    for name in (".lease", "tokenizer/half", "datasets.json"):
        bucket.put(f"run/{name}", b"")
    url = f"{bucket.url}/run"
    with RunPlace(url) as place:
        check_config(place.path, load_config(ids, [f"run_dir={url}"]))
        assert not (place.path / "tokenizer").exists()


def test_a_run_dir_of_another_scheme_is_told_with_its_key(ids):
    with pytest.raises(ValueError, match="run_dir: s3://a/b: s3:// is not supported"):
        load_config(ids, ["run_dir=s3://a/b"])


@pytest.fixture
def no_cache_yet():
    """JAX opens a cache once, and keeps it."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_cache_yet")
def test_compiled_programs_are_kept_in_a_bucket(bucket):
    """JAX reads and writes them; that a URL reaches it whole, and what it finds there."""
    enable_compilation_cache(f"{bucket.url}/compiled/")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    program = jax.jit(lambda x: x * 3.0 + 1.5)
    assert program(2.0) == 7.5
    kept = {name for name in bucket.files("compiled") if name.endswith("-cache")}
    assert kept
    jax.clear_caches()
    bucket.requests.clear()
    assert program(2.0) == 7.5
    assert [line for line in bucket.requests if any(name in line for name in kept)]
    assert not [line for line in bucket.requests if line.startswith("POST")], "a new program"
