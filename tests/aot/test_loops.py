import re

import jax
import jax.numpy as jnp
import pytest

from jaxllm.aot.hlo import parse_hlo
from jaxllm.aot.loops import trip_count
from tests.aot.programs import LOOPS
from tests.tiny import fast


def counts(text):
    """The trip count of every loop by name."""
    module = parse_hlo(text)
    return {
        each.name: trip_count(module, within, each)
        for within in module.computations.values()
        for each in within.instructions.values()
        if each.opcode == "while"
    }


def test_from_start_step_and_limit():
    assert counts(LOOPS) == {"first": 4, "second": 3}


@pytest.mark.parametrize(
    ("direction", "first", "limit", "step", "trips"),
    [
        ("LT", 0, 7, 1, 7),
        ("LT", 0, 7, 2, 4),
        ("LT", 7, 7, 1, 0),
        ("LE", 0, 7, 1, 8),
        ("NE", 0, 7, 1, 7),
        ("GT", 7, 0, -1, 7),
        ("GE", 7, 0, -2, 4),
        ("LT", 0, 7, 0, None),
        ("LT", 0, 7, -1, None),
    ],
)
def test_directions_and_steps(direction, first, limit, step, trips):
    text = LOOPS.replace("direction=LT", f"direction={direction}")
    for name, value in {"four": limit, "zero": first, "one": step}.items():
        text = re.sub(rf"(%{name} = .* constant)\(\d+\)", rf"\g<1>({value})", text)
    assert counts(text)["first"] == trips


def test_counting_by_subtraction():
    text = LOOPS.replace("%next = s32[]{:T(128)} add(", "%next = s32[]{:T(128)} subtract(")
    text = text.replace("direction=LT", "direction=GT").replace(
        "%zero = s32[]{:T(128)} constant(0)", "%zero = s32[]{:T(128)} constant(9)"
    )
    assert counts(text)["first"] == 5  # 9, 8, 7, 6, 5


def test_a_loop_that_ends_by_its_data_has_no_count():
    text = LOOPS.replace("compare(%j, %four)", "compare(%j, %j)")
    assert counts(text) == {"first": None, "second": None}


@pytest.mark.parametrize("is_stated", [True, False])
def test_nested_loops_that_a_compiler_wrote(is_stated):
    def outer(x, _):
        return jax.lax.scan(lambda y, _: (jnp.sin(y) @ y, None), x, None, length=3)[0], None

    step = fast(lambda x: jax.lax.scan(outer, x, None, length=5)[0])
    text = step.lower(jax.ShapeDtypeStruct((4, 4), jnp.float32)).compile().as_text()
    if not is_stated:
        text = re.sub(r'"known_trip_count":\{"n":"\d+"\},?', "", text)
        assert "known_trip_count" not in text
    assert sorted(counts(text).values()) == [3, 5]
