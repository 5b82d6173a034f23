import errno
import os

import pytest

from jaxllm.checkpoints import manifest
from jaxllm.checkpoints.manifest import (
    MANIFEST_FILE,
    digests,
    files_under,
    find_damage,
    write_manifest,
)

FILES = {"top": b"x", "params/d/0a": bytes(range(256)) * 9, "params/d/0b": b"\0", "data/empty": b""}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        path = tmp_path / "7" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_manifest(tmp_path / "7")
    return tmp_path / "7"


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_file_is_listed_and_an_untouched_folder_is_sound(folder):
    assert files_under(folder) == sorted([*FILES, MANIFEST_FILE])
    assert find_damage(folder) is None
    (folder / "params" / "newcomer").write_text("nothing reads it")
    assert find_damage(folder) is None


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_with_a_file_is_named(folder, name):
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    assert find_damage(folder) == (
        name,
        f"has {len(whole) + 1:,} bytes instead of {len(whole):,}",
    )
    if whole:
        path.write_bytes(whole[:-1])
        assert f"has {len(whole) - 1:,} bytes" in find_damage(folder).problem
        path.write_bytes(whole)
        flip(path, 5 * len(whole))
        assert find_damage(folder) == (name, "has other content than was saved")
    path.unlink()
    assert find_damage(folder) == (name, "is missing")
    path.symlink_to(folder.parent / "elsewhere")
    assert find_damage(folder) == (name, "is no plain file")
    path.unlink()
    path.write_bytes(whole)
    assert find_damage(folder) is None


def test_bits_of_the_manifest_itself_count(folder):
    path = folder / MANIFEST_FILE
    whole = path.read_bytes()
    for bit in range(0, len(whole) * 8, 23):
        flip(path, bit)
        assert find_damage(folder) == (MANIFEST_FILE, "is not as it was saved")
        path.write_bytes(whole)
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        assert find_damage(folder).file == MANIFEST_FILE
    path.unlink()
    assert "is missing" in find_damage(folder).problem


def test_shares_are_all_files_once(folder):
    for name in FILES:
        whole = (folder / name).read_bytes()
        (folder / name).unlink()
        found = [find_damage(folder, share=share, shares=3) for share in range(3)]
        assert [damage for damage in found if damage] == [(name, "is missing")]
        (folder / name).write_bytes(whole)


def test_a_glance_reads_no_large_file_but_knows_its_size(folder, monkeypatch):
    monkeypatch.setattr(manifest, "_SMALL", 100)
    large = folder / "params/d/0a"
    flip(large, 3)
    assert find_damage(folder, is_deep=False) is None
    assert find_damage(folder) is not None
    os.truncate(large, 100)
    assert find_damage(folder, is_deep=False).file == "params/d/0a"
    flip(folder / "top", 0)
    large.write_bytes(FILES["params/d/0a"])
    assert find_damage(folder, is_deep=False) == ("top", "has other content than was saved")


def test_what_cannot_be_read_is_not_called_damage(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "the server is away")

    monkeypatch.setattr(manifest, "_entry", refuse)
    with pytest.raises(OSError, match="the server is away"):
        find_damage(folder)


def test_digests_that_are_known_are_not_computed_again(folder, monkeypatch):
    known = digests(folder, ["params/d/0a", "params/d/0b"])
    read = []
    monkeypatch.setattr(
        manifest, "digests", lambda folder, names: read.extend(names) or digests(folder, names)
    )
    write_manifest(folder, known)
    assert read == ["data/empty", "top"]
    assert find_damage(folder) is None
