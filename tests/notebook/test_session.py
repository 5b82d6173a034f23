import subprocess
import sys

import jax
import pytest

from jaxllm.notebook import session
from jaxllm.notebook.session import (
    installed_versions,
    loaded_versions,
    ready,
    restart_words,
)

INSTALLED = {"jax": "0.12.0", "numpy": "2.5.5", "flax": "0.12.12"}


@pytest.mark.parametrize(
    "loaded", [{}, {"jax": "0.12.0"}, INSTALLED, {"pandas": "1.0", "jax": "0.12.0"}]
)
def test_a_session_may_go_on_where_what_is_loaded_is_what_is_installed(loaded):
    assert restart_words(loaded, INSTALLED) is None


def test_what_was_loaded_before_it_was_replaced_asks_for_a_restart_by_name():
    words = restart_words({"jax": "0.7.2", "numpy": "2.0.2", "flax": "0.12.12"}, INSTALLED)
    assert words.startswith("restart the session")
    assert "jax 0.7.2 is loaded, 0.12.0 is installed" in words
    assert "numpy 2.0.2 is loaded, 2.5.5 is installed" in words
    assert "flax" not in words


def test_this_session_is_as_installed():
    assert loaded_versions()["jax"] == installed_versions()["jax"] == jax.__version__


def test_ready_stops_a_session_that_must_be_restarted(monkeypatch):
    monkeypatch.setattr(session, "installed_versions", lambda: {"jax": "99.0"})
    with pytest.raises(RuntimeError, match=r"restart the session .* 99\.0 is installed"):
        ready()


def test_ready_says_what_runs_here():
    line = ready(virtual_devices=jax.device_count())
    assert f"jax {jax.__version__}" in line
    assert line.endswith(f"{jax.device_count()} x cpu")


def test_other_devices_than_jax_has_already_ask_for_a_restart():
    with pytest.raises(RuntimeError, match=r"for 3 virtual devices restart the session"):
        ready(virtual_devices=3)


def test_nothing_heavy_is_loaded_before_versions_are_known():
    script = (
        "import sys, jaxllm.notebook.session as s; "
        "print([name for name in s.LIBRARIES if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"
