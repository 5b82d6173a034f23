import json

from jaxllm.commands.console import Console
from jaxllm.commands.ending import show_ending

SUMMARY = {
    "steps": 8,
    "tokens": 1024,
    "validation_loss": None,
    "validation_bits_per_byte": None,
    "tokens_per_second": 100.0,
    "wall_seconds": 9.0,
    "sample": "",
}


def ending(run_dir, capsys, **more):
    (run_dir / "summary.json").write_text(json.dumps(SUMMARY | more))
    show_ending(run_dir, Console(is_shown=True))
    return capsys.readouterr().out


def test_the_ending_says_where_the_time_went(tmp_path, capsys):
    seconds = {"step": 60, "recomputation": 5, "data": 0, "compile": 20, "restart": 14, "other": 1}
    out = ending(tmp_path, capsys, goodput=seconds)
    expected = "60.0% of 100 s in steps; compile 20.0%, restart 14.0%, recomputation 5.0%\n"
    assert f"goodput     {expected}" in out


def test_a_run_without_an_account_has_none_to_show(tmp_path, capsys):
    assert "goodput" not in ending(tmp_path, capsys)
