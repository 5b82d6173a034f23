import dataclasses
from xml.etree import ElementTree

import pytest

from jaxllm.aot.report import CollectiveLine, Report
from jaxllm.aot.search_outcome import Outcome
from jaxllm.aot.search_space import Candidate
from jaxllm.notebook.compiled import CompiledStep, Ranking
from jaxllm.parallel.mesh import ParallelConfig
from tests.searches import report as outcome

REPORT = Report(
    fits=True,
    peak_hbm_gib=10.29,
    hbm_limit_gib=15.75,
    memory_gib={"parameters": 1.57, "optimizer": 3.14, "activations": 2.0, "temporaries": 3.58},
    host_memory_gib=0.0,
    largest_buffers=(),
    predicted_step_seconds=2.74,
    predicted_step_seconds_range=(2.6, 3.0),
    predicted_mfu=0.65,
    tokens_per_second_per_chip=2990.0,
    tokens_per_step=131072,
    seconds_by_kind={"matmul": 2.22, "pallas": 0.3, "vector": 0.1, "communication": 0.12},
    estimated_cycles=3.65e9,
    collectives=(CollectiveLine("all-gather", ("fsdp",), True, 544, 2**34, 0.283, 0.0),),
    compile_seconds=60.0,
    topology="v5e:4x4",
    num_slices=1,
    chips=16,
    devices=16,
    mesh={"data": 1, "fsdp": 16},
    num_params=6_738_415_616,
    num_active_params=6_738_415_616,
    compiler_options={},
    assumptions={},
    versions={},
    warnings=(),
)
NO_FIT = dataclasses.replace(
    REPORT,
    fits=False,
    peak_hbm_gib=40.0,
    predicted_step_seconds=None,
    predicted_step_seconds_range=None,
    predicted_mfu=None,
    tokens_per_second_per_chip=None,
    seconds_by_kind={},
    collectives=(),
    warnings=("something",),
)


def candidate(**keys):
    return Candidate(ParallelConfig(data=1, **keys), "full", "none", 1)


def test_a_compiled_step_is_the_report_and_draws_itself():
    step = CompiledStep.of(REPORT)
    assert step.to_json() == REPORT.to_json()
    bundle = step._repr_mimebundle_()
    ElementTree.fromstring(bundle["image/svg+xml"])
    for part in ("fits, 10.29 of 15.75 GiB", "MFU 65.0%", "optimizer 3.14", "matmul 2,220"):
        assert part in bundle["text/plain"]
    assert "544 all-gather over fsdp, beside compute: 283 (hidden 283)" in bundle["text/plain"]


def test_what_does_not_fit_is_drawn_without_times():
    text = CompiledStep.of(NO_FIT).plot().text
    assert "does not fit, 40.00 of 15.75 GiB" in text
    assert "Note: something." in text
    assert "Predicted" not in text


def test_a_ranking_is_a_list_whose_best_fits():
    slow = outcome(candidate(fsdp=16), seconds=3.0, peak_gib=8.0, limit_gib=15.75)
    large = outcome(candidate(fsdp=8, tensor=2), seconds=2.0, peak_gib=20.0, limit_gib=15.75)
    broken = Outcome(candidate(fsdp=4, tensor=4), None, "the compiler broke")
    ranking = Ranking([large, slow, broken])
    assert list(ranking) == [large, slow, broken]
    assert ranking.best is slow
    text = ranking.plot().text
    assert "fsdp 16, remat full: 3,000" in text
    assert "fsdp 8 x tensor 2, remat full: 20" in text
    assert text.count("fsdp 8 x tensor 2") == 1  # which has a memory, and no time


@pytest.mark.parametrize("outcomes", [[], [Outcome(candidate(fsdp=4), None, "broken")]])
def test_a_ranking_of_nothing_says_so(outcomes):
    ranking = Ranking(outcomes)
    assert ranking.best is None
    assert ranking._repr_mimebundle_()["text/plain"] == "nothing was compiled"
