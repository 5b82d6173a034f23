import pytest

from jaxllm.commands.prepare import beam_options, prepare
from jaxllm.config import load_config

from . import runs


def test_it_tells_what_it_made_and_makes_it_once(text, tmp_path, capsys):
    config = load_config(text, [f"data.root={tmp_path}"])
    prepare(config)
    shown = capsys.readouterr().out
    (folder,) = tmp_path.glob("plain-*/")
    assert f"plain: {folder}" in shown
    assert "train 6 documents" in shown
    assert "validation 2 documents" in shown
    before = runs.contents(tmp_path)
    prepare(config)
    assert runs.contents(tmp_path) == before
    assert not (text.parent / "run").exists()


def test_ids_need_no_preparation(ids, capsys):
    prepare(load_config(ids))
    assert "nothing to prepare" in capsys.readouterr().out


def test_what_follows_a_dash_is_for_beam():
    given = ["a.b=1", "c=2", "--project=p", "--worker_zone", "z"]
    assert beam_options(given, runner="beam") == (["a.b=1", "c=2"], given[2:])
    assert beam_options(["a.b=1"], runner="beam") == (["a.b=1"], [])
    assert beam_options(["a.b=1"], runner=None) == (["a.b=1"], None)
    with pytest.raises(ValueError, match="--project=p is an option of Beam's: give --runner beam"):
        beam_options(given, runner=None)


def test_without_beam_is_said_what_to_install(text, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"environment of its own.* jaxllm\[beam\]"):
        prepare(load_config(text, [f"data.root={tmp_path}"]), beam=[])
    assert not list(tmp_path.iterdir()), "nothing was begun"
