import importlib.util
import re
from pathlib import Path

import pytest
from searches import report

from jaxllm.aot.search_cache import ResultCache, source_files, source_hash
from jaxllm.aot.search_outcome import Outcome
from jaxllm.aot.search_space import Candidate
from jaxllm.commands import assembly, compile, compile_report
from jaxllm.parallel.mesh import ParallelConfig

CANDIDATE = Candidate(ParallelConfig(fsdp=8, tensor=2), "qkv", "none", 2)
CONTEXT = {"model": {"num_layers": 2}, "versions": {"libtpu": "1"}}


@pytest.mark.parametrize(
    "outcome",
    [
        report(CANDIDATE, seconds=2.0, peak_gib=10.0, limit_gib=15.75),
        report(CANDIDATE, seconds=2.0, peak_gib=20.0, limit_gib=15.75),
        Outcome(CANDIDATE, None, "the compiler broke"),
    ],
    ids=["fits", "too large", "failed"],
)
def test_every_kind_of_result_comes_back(tmp_path, outcome):
    ResultCache(tmp_path, CONTEXT).store(outcome)
    assert ResultCache(tmp_path, CONTEXT).load(CANDIDATE) == outcome


def test_what_decides_the_program_decides_the_name(tmp_path):
    cache = ResultCache(tmp_path, CONTEXT)
    cache.store(Outcome(CANDIDATE, None, "broke"))
    others = [
        Candidate(ParallelConfig(fsdp=4, tensor=4), "qkv", "none", 2),
        Candidate(ParallelConfig(fsdp=8, tensor=2), "full", "none", 2),
        Candidate(ParallelConfig(fsdp=8, tensor=2), "qkv", "qkv", 2),
        Candidate(ParallelConfig(fsdp=8, tensor=2), "qkv", "none", 1),
        Candidate(ParallelConfig(fsdp=8, tensor=2), "qkv", "none", 2, (("a_flag", 1),)),
    ]
    assert [cache.load(other) for other in others] == [None] * len(others)
    newer = CONTEXT | {"versions": {"libtpu": "2"}}
    assert ResultCache(tmp_path, newer).load(CANDIDATE) is None
    assert cache.load(CANDIDATE) is not None


def test_a_file_cut_short_is_no_result(tmp_path):
    cache = ResultCache(tmp_path, CONTEXT)
    cache.store(Outcome(CANDIDATE, None, "broke"))
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:-10])
    assert cache.load(CANDIDATE) is None


def test_no_folder_keeps_nothing(tmp_path):
    cache = ResultCache(None, CONTEXT)
    cache.store(Outcome(CANDIDATE, None, "broke"))
    assert cache.load(CANDIDATE) is None


def test_the_source_has_one_hash():
    assert source_hash() == source_hash()
    assert len(source_hash()) == 16


def test_what_compiles_a_step_and_reports_on_it_is_hashed():
    imported = set()
    for module in (assembly, compile, compile_report):
        text = Path(module.__file__).read_text()
        imported |= set(re.findall(r"^from (jaxllm\.[\w.]+) import", text, re.MULTILINE))
    # One only prints, the other scores what a compiled step has trained.
    imported -= {"jaxllm.commands.compile_screen", "jaxllm.tasks"}
    files = {Path(importlib.util.find_spec(name).origin) for name in imported}
    assert len(files) > 10
    assert files <= set(source_files())
