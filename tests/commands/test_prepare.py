from jaxllm.commands.prepare import prepare
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
