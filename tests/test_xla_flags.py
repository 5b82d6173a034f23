import warnings

import jax
import pytest

from jaxllm import xla_flags
from jaxllm.xla_flags import FLAGS, Flag, compiler_options

DEVICES = jax.devices()
KNOWN = "xla_cpu_enable_fast_math"


@pytest.fixture
def table(monkeypatch):
    """The table with two rows for the chip at hand: one option it knows, one it does not."""
    rows = (Flag(KNOWN, False, "why", "none"), Flag("xla_gone", True, "why", "none"))
    chip = xla_flags.find_chip("TPU v5e")
    monkeypatch.setattr(xla_flags, "find_chip", lambda kind: chip)
    monkeypatch.setitem(FLAGS, chip.name, rows)


def test_a_chip_without_a_row_has_no_options():
    assert compiler_options(DEVICES, {}) == {}


def test_an_option_of_the_table_that_is_gone_is_named_and_left_out(table):
    with pytest.warns(UserWarning, match=r"xla_gone is left out: .*No such compile option"):
        assert compiler_options(DEVICES, {}) == {KNOWN: False}


def test_the_config_changes_the_table(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiler_options(DEVICES, {"xla_gone": None, KNOWN: True}) == {KNOWN: True}
        assert compiler_options(DEVICES, {"xla_gone": None, KNOWN: None}) == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("xla_never_was", 1, r"xla_flags\.xla_never_was=1: .*No such compile option"),
        (KNOWN, "perhaps", rf"xla_flags\.{KNOWN}=perhaps: .*not a valid bool"),
    ],
)
def test_an_override_that_the_compiler_refuses(name, value, message):
    with pytest.raises(ValueError, match=message):
        compiler_options(DEVICES, {name: value})


@pytest.mark.parametrize("chip", FLAGS)
def test_each_row_says_why_and_what_it_did(chip):
    for flag in FLAGS[chip]:
        assert flag.reason
        assert flag.effect
        assert not flag.name.startswith("--")
