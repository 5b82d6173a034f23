import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm.storage import as_path, is_remote, text_of


def test_what_is_in_a_bucket_and_what_is_not():
    for path in ("gs://bucket", "gs://bucket/a/b", Path("gs://bucket/a")):
        assert is_remote(path)
    for path in ("runs/one", "/gs/bucket", "C:/runs", Path("runs"), "", "gs", "a:b"):
        assert not is_remote(path)


@pytest.mark.parametrize("path", ["s3://bucket/a", "hf://a", "http://a/b", Path("s3://bucket/a")])
def test_other_schemes_are_refused_by_name(path):
    for look in (is_remote, as_path, text_of):
        with pytest.raises(ValueError, match=r"(s3|hf|http):// is not supported.*gs://BUCKET"):
            look(path)


@pytest.mark.parametrize("path", ["gs://", "gs:///a"])
def test_a_place_without_a_bucket_is_refused(path):
    with pytest.raises(ValueError, match="names no bucket; give gs://BUCKET/FOLDER"):
        is_remote(path)


def test_the_slash_that_pathlib_takes_is_put_back():
    assert text_of(Path("gs://bucket/a/")) == "gs://bucket/a"
    assert text_of("gs://bucket//a/") == "gs://bucket/a"
    assert text_of("runs/one/") == "runs/one/"
    assert str(as_path(Path("gs://bucket") / "a")) == "gs://bucket/a"


def test_a_local_path_is_of_pathlib_and_a_remote_one_of_epath():
    from etils import epath

    assert type(as_path("runs/one")) is type(Path())
    remote = as_path("gs://bucket/a")
    assert isinstance(remote, epath.Path)
    assert not isinstance(remote, Path)
    assert str(remote / "b") == "gs://bucket/a/b"
    assert as_path(remote) == remote


def test_without_gcsfs_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"gs://bucket/a.*add jaxllm\[gcp\]"):
        as_path("gs://bucket/a")
    assert as_path("runs") == Path("runs")


def test_nothing_heavy_is_imported_for_it():
    script = """
import sys
from jaxllm.storage import as_path
as_path("runs/one")
assert "fsspec" not in sys.modules and "etils" not in sys.modules
as_path("gs://bucket/a")
import jaxllm.storage.mirror, jaxllm.storage.stored_object
assert not {"jax", "numpy", "gcsfs", "tensorstore", "tensorflow"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_another_process_writes_is_seen_at_once(bucket):
    folder = as_path(f"{bucket.url}/folder")
    bucket.put("folder/a", b"")
    assert [path.name for path in folder.iterdir()] == ["a"]
    bucket.put("folder/b", b"")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    bucket.remove("folder/a")
    assert not (folder / "a").exists()
