import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm.aot.compilation import compile_lowered
from jaxllm.aot.report import BufferLine, CollectiveLine, Report
from tests.aot.programs import LOOPS
from tests.aot.test_memory import ASSIGNMENT, SHORTAGE


class Refused:
    """A lowered program that the compiler dumps and then refuses."""

    def __init__(self, message, *, is_dumped=True):
        self.message, self.is_dumped = message, is_dumped

    def compile(self, compiler_options):
        assert compiler_options["xla_mine"] == 3
        folder = Path(compiler_options["xla_dump_to"])
        if self.is_dumped:
            stem = "module_0000.jit_step.after_optimizations"
            (folder / f"{stem}.txt").write_text(LOOPS)
            (folder / f"{stem}-buffer-assignment.txt").write_text(ASSIGNMENT)
        raise jax.errors.JaxRuntimeError(self.message)


def test_a_program_that_does_not_fit_is_a_result():
    found = compile_lowered(Refused(SHORTAGE), {"xla_mine": 3}, limit_gib=15.75)
    assert (found.fits, found.peak_gib, found.limit_gib) == (False, 23.75, 15.75)
    assert len(found.buffers) == 2
    assert found.module.entry.name == "main"


def test_one_that_leaves_no_notes_too():
    refused = Refused(SHORTAGE, is_dumped=False)
    found = compile_lowered(refused, {"xla_mine": 3}, limit_gib=15.75)
    assert (found.fits, found.module, found.buffers) == (False, None, ())


def test_a_refused_option_is_the_users_error():
    with pytest.raises(
        ValueError, match=r"refuses this step: .*No such compile option\n.*xla_flags"
    ):
        compile_lowered(
            Refused("INVALID_ARGUMENT: No such compile option"), {"xla_mine": 3}, limit_gib=1.0
        )


def test_a_compiler_that_breaks_is_no_result():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a bug"):
        compile_lowered(Refused("INTERNAL: a bug"), {"xla_mine": 3}, limit_gib=1.0)


def test_a_compiled_program_says_its_peak_and_its_text():
    lowered = jax.jit(lambda x: jnp.sin(x) @ x).lower(jax.ShapeDtypeStruct((512, 512), jnp.float32))
    found = compile_lowered(lowered, {}, limit_gib=1.0)
    assert found.fits
    assert found.peak_gib >= 2 * 4 * 512 * 512 / 2**30  # argument and result
    assert found.module.entry.name in found.text
    assert not compile_lowered(lowered, {}, limit_gib=1e-6).fits


def test_a_report_goes_into_json():
    fields = dict.fromkeys(Report.__dataclass_fields__)
    line = CollectiveLine("all-gather", ("fsdp",), True, 2, 10, 0.5, 0.0)
    buffer = BufferLine(1.0, "f32[2]", "jaxllm/nn/mlp.py:1", "step/mul")
    fields |= {"collectives": (line,), "largest_buffers": (buffer,), "fits": True}
    tree = json.loads(json.dumps(Report(**fields).to_json()))
    assert tree["collectives"][0]["axes"] == ["fsdp"]
    assert tree["largest_buffers"][0]["source"] == "jaxllm/nn/mlp.py:1"
    assert tree["fits"] is True
