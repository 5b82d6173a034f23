import os
import signal
import sys
import tempfile
import time
from dataclasses import replace

import pytest
from searches import TINY, llama2_7b, report

from jaxllm import cli, exit_codes
from jaxllm import plan as plan_in_python
from jaxllm.aot.search import Search
from jaxllm.aot.search_space import Candidate, abstract_layout, candidates
from jaxllm.aot.topology import parse_topology
from jaxllm.commands import plan, plan_compiler, plan_smallest
from jaxllm.commands.assembly import assemble
from jaxllm.commands.plan_compiler import StepCompiler, budget_left, result_cache, with_candidate
from jaxllm.commands.plan_scaling import SCALED_CHIPS, scaled_steps, scaled_topology
from jaxllm.commands.plan_screen import PlanScreen
from jaxllm.commands.plan_smallest import ask_slices, generation
from jaxllm.commands.plan_workload import estimates, workload_of
from jaxllm.config import load_config
from jaxllm.config_files import find_config
from jaxllm.hardware import TPUS
from jaxllm.parallel.mesh import ParallelConfig

pytestmark = pytest.mark.libtpu

# Stands for `jaxllm compile`: full remat fits, none breaks the compiler, others do not fit; the
# fewer the parts, the faster. It notes each call.
COMPILE = """
import json, sys, yaml
config, out = yaml.safe_load(open(sys.argv[2])), sys.argv[sys.argv.index("--json") + 1]
open({log!r}, "a").write(config["model"]["remat"] + chr(10))
if config["model"]["remat"] == "none":
    sys.exit("Traceback" + chr(10) + "ValueError: it broke")
fits = config["model"]["remat"] == "full" and {can_fit}
seconds = 1.0 + config["training"]["num_microbatches"]
json.dump(dict(
    fits=fits, peak_hbm_gib=10.0 if fits else 99.0, hbm_limit_gib=15.75,
    predicted_step_seconds=seconds if fits else None,
    predicted_mfu=0.5 if fits else None, tokens_per_second_per_chip=10.0 if fits else None,
    seconds_by_kind=dict(matmul=seconds) if fits else dict(), collectives=[]), open(out, "w"))
sys.exit(0 if fits else 1)
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(folder=tmp_path))
    return path


@pytest.fixture
def compiles(tmp_path, monkeypatch):
    """Puts a script in the place of the compiler; called, it lists what was compiled so far."""
    log, script = tmp_path / "compiled.txt", tmp_path / "compile.py"

    def use(text=COMPILE, **values):
        script.write_text(text.format(log=str(log), **values))
        monkeypatch.setattr(plan_compiler, "_JAXLLM", (sys.executable, str(script)))
        return lambda: log.read_text().split() if log.exists() else []

    # One mesh is enough, so that all its candidates are compiled quickly.
    mesh = ParallelConfig(fsdp=4)
    monkeypatch.setattr(
        "jaxllm.commands.plan_workload.candidates",
        lambda *_, **__: [
            Candidate(mesh, remat, "none", parts)
            for remat, parts in (("full", 1), ("full", 2), ("qkv", 1), ("none", 1))
        ],
    )
    monkeypatch.setattr("jaxllm.commands.plan_workload.OPTIONAL_FLAGS", {"v5e": ()})
    monkeypatch.setattr(Search, "take", _whatever_is_left)
    return use


def _whatever_is_left(search):
    """Also what cannot win any more."""
    if not search._open:
        return None
    candidate = next(iter(search._open))
    del search._open[candidate]
    search.running.append(candidate)
    return candidate


@pytest.fixture
def jaxllm(monkeypatch, capsys):
    """Runs a command line in this process: its exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["jaxllm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def test_the_winner_is_written_and_the_next_plan_takes_the_results_over(
    config_file, tmp_path, jaxllm, compiles
):
    compiled = compiles(can_fit=True)
    command = ("plan", config_file, "--topology", "v5e:2x2", "--global-batch", 32)
    code, shown, _ = jaxllm(*command)
    assert code == 0
    assert sorted(compiled()) == ["full", "full", "none", "qkv"]
    assert "ValueError: it broke" in shown
    assert "needs more than 15.75 GiB" in shown
    written = tmp_path / "tiny_v5e_2x2.yaml"
    lines = written.read_text().splitlines()
    assert lines[0] == f"# jaxllm train {written}"
    planned = load_config(written)
    given = load_config(config_file, ["data.global_batch_size=32"])
    winner = Candidate(ParallelConfig(fsdp=4), "full", "none", 1)
    assert planned == with_candidate(given, winner)

    code, shown, _ = jaxllm(*command)
    assert code == 0
    assert "3 results of an earlier plan are taken over" in shown
    # What broke may have been the machine's fault, so that it alone is tried again.
    assert compiled()[4:] == ["none"]

    written.unlink()
    ranking = plan_in_python(config_file, "data.global_batch_size=32", topology="v5e:2x2")
    assert ranking[0].candidate == winner
    assert not written.exists()  # it was not asked for


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, exit_codes.EXIT_CTRL_C), (signal.SIGTERM, exit_codes.EXIT_INTERRUPTED)],
    ids=["ctrl-C", "SIGTERM"],
)
def test_a_plan_that_was_stopped_goes_on(number, code, config_file, jaxllm, compiles, monkeypatch):
    compiled = compiles(can_fit=True)
    monkeypatch.setattr(plan, "num_workers", lambda: 1)
    kept = plan.PlanScreen.update

    def interrupt(screen, search):
        kept(screen, search)
        if len(search.outcomes) == 2:
            assert signal.getsignal(number) != signal.SIG_DFL
            signal.raise_signal(number)

    monkeypatch.setattr(plan.PlanScreen, "update", interrupt)
    command = ("plan", config_file, "--topology", "v5e:2x2")
    ended, shown, _ = jaxllm(*command)
    assert ended == code
    assert "the same command goes on from it" in shown
    before = compiled()
    monkeypatch.setattr(plan.PlanScreen, "update", kept)
    ended, shown, _ = jaxllm(*command)
    assert ended == 0
    assert "results of an earlier plan are taken over" in shown
    assert 4 <= len(compiled()) <= len(before) + 2


def test_nothing_that_fits_is_said(config_file, tmp_path, jaxllm, compiles):
    compiles(can_fit=False)
    code, shown, _ = jaxllm("plan", config_file, "--topology", "v5e:2x2")
    assert code == 1
    assert "nothing that was compiled fits on v5e:2x2" in shown
    assert not (tmp_path / "tiny_v5e_2x2.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--topology", "v9-16"), "unknown topology 'v9-16'; known are"),
        (("--topology", "v5e:2x2", "--budget", "0.2"), "--budget 0.2: minutes too few"),
        (
            ("--topology", "v5e:16x16", "--global-batch", "7"),
            "data.global_batch_size is 7: no layout of 256 devices divides these rows and the "
            "model's sizes; change --global-batch",
        ),
        (
            ("--topology", "v5e:1x1", "model.embed_dim=8192", "model.num_layers=64"),
            "--topology v5e:1x1: every layout surely needs more than the 15.75 GiB",
        ),
        (("--topology", "v5e:2x2", "--out", "{config}"), "that is the config itself"),
        (("--topology", "v5e:2x2", "--out", "{folder}"), "that is a folder; give a file"),
        (
            ("--topology", "v5e:2x2", "--out", "{folder}/no/x.yaml"),
            "there is no folder {folder}/no;",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments, said, config_file, jaxllm):
    places = {"config": config_file, "folder": config_file.parent}
    given = [argument.format(**places) for argument in arguments]
    code, _, error = jaxllm("plan", config_file, *given)
    assert code == exit_codes.EXIT_USAGE
    assert said.format(**places) in error


def test_a_stopped_compiler_leaves_nothing(config_file, tmp_path, compiles, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    begun = compiles(
        text="import tempfile, time\ntempfile.mkdtemp()\n"
        "open({log!r}, 'w').write('begun')\ntime.sleep(60)"
    )
    config, topology = load_config(config_file), parse_topology("v5e:2x2")
    cache = result_cache(config, topology, vocab_size=256)
    candidate = Candidate(ParallelConfig(fsdp=4), "full", "none", 1)
    compiler, before = StepCompiler(config, topology, cache, 1), signal.getsignal(signal.SIGTERM)
    running = []

    def compile_until_sigterm():
        with compiler:
            running.append(compiler.submit(candidate))
            while not begun():
                time.sleep(0.01)
            running.extend(compiler._processes)
            assert signal.getsignal(signal.SIGTERM) is not before
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        compile_until_sigterm()
    future, process = running
    assert signal.getsignal(signal.SIGTERM) is before
    assert process.wait() == -signal.SIGKILL
    assert not list(temporary.iterdir())
    assert future.result().report is None
    assert not compiler._processes
    assert cache.load(candidate) is None


def test_no_more_compile_at_a_time_than_there_are_cores_for(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert plan_compiler.num_workers() == 1


def test_the_budget_goes_by_what_compiles_took():
    now, taken = [0.0], []
    may_start = budget_left(5, taken, first_seconds=60, clock=lambda: now[0])
    now[0] = 240
    assert may_start()
    now[0] = 241
    assert not may_start()
    taken += [100, 20]
    now[0] = 239.9
    assert may_start()
    taken.append(240)
    assert not may_start()


@pytest.mark.parametrize("name", ["yardstick_llama2_7b", "llama3_70b_v5p_512"])
def test_shipped_configs_are_planned_into_the_current_folder(name):
    out = plan.default_out(find_config(name), parse_topology("v5p-16", num_slices=2))
    assert str(out) == f"{name}_2xv5p_2x2x2.yaml"


class TestSmallest:
    """Slices of v5e asked for Llama-2-7B, with a compiler that says what arithmetic expects."""

    def ask(self, *, factor=1.0, most=100):
        asked = []
        workload = llama2_7b()

        def try_one(candidate, topology):
            asked.append(topology.name)
            if len(asked) > most:
                return None
            memory = estimates(workload, [candidate], topology)[candidate].memory
            peak = (memory.state + factor * memory.work) / 2**30
            return report(candidate, seconds=1.0, peak_gib=peak, limit_gib=15.75)

        return ask_slices(workload, TPUS["v5e"], try_one), asked

    def test_arithmetic_comes_first_and_a_compile_confirms(self):
        verdicts, asked = self.ask()
        assert [verdict.topology.name for verdict in verdicts][:3] == [
            "v5e:1x1",
            "v5e:2x2",
            "v5e:2x4",
        ]
        assert [verdict.fits for verdict in verdicts[:-1]] == [False] * (len(verdicts) - 1)
        assert verdicts[-1].fits
        assert asked[-1] == verdicts[-1].topology.name
        # The state alone is 75 GiB: 1 and 4 chips are not worth a compile.
        assert not {"v5e:1x1", "v5e:2x2"} & set(asked)

    def test_a_slice_that_arithmetic_hopes_for_may_turn_out_too_small(self):
        small, _ = self.ask()
        large, asked = self.ask(factor=4.0)
        assert large[-1].fits
        assert len(large) > len(small)
        failed = [verdict for verdict in large[:-1] if verdict.topology.name in asked]
        assert all("compiled, needs" in verdict.words for verdict in failed)
        assert failed

    def test_a_spent_budget_decides_nothing(self):
        verdicts, _ = self.ask(most=0)
        assert verdicts[-1].fits is None
        assert "--budget" in verdicts[-1].words

    def test_a_generation_or_a_slice_names_it(self):
        assert generation("v5e") is generation("v5e-16") is generation("v5e:4x8") is TPUS["v5e"]
        with pytest.raises(ValueError, match="unknown topology 'v5'; known are"):
            generation("v5")

    def test_the_command_says_what_to_do_next(self, config_file, jaxllm, monkeypatch):
        def submit(compiler, candidate):
            raise AssertionError("known from the cache")

        class Known:
            def load(self, candidate):
                return report(candidate, seconds=1.0, peak_gib=1.0, limit_gib=15.75)

        monkeypatch.setattr(StepCompiler, "submit", submit)
        monkeypatch.setattr(plan_smallest, "result_cache", lambda *_, **__: Known())
        code, shown, _ = jaxllm("plan", config_file, "--topology", "v5e", "--smallest")
        assert code == 0
        assert f"jaxllm plan {config_file} --topology v5e:1x1" in shown


def test_scaling_keeps_the_rows_of_a_chip(monkeypatch):
    workload, topology = llama2_7b(), parse_topology("v5e:4x4")
    found = [each for each in candidates(workload, num_devices=16) if each.num_microbatches == 1]
    search = Search(estimates(workload, found, topology), limit=15.75 * 2**30)
    winner = Candidate(ParallelConfig(fsdp=16), "full", "none", 1)
    search.add(report(winner, seconds=4.0, peak_gib=10.7, limit_gib=15.75))
    steps = {step.rows // 4: step for step in scaled_steps(workload, search, topology)}
    assert tuple(steps) == SCALED_CHIPS
    assert (steps[16].seconds, steps[16].how) == (4.0, "compiled")
    assert {step.how for chips, step in steps.items() if chips != 16} == {"extrapolated"}
    assert {(step.candidate.remat, step.candidate.offload) for step in steps.values()} == {
        ("full", "none")
    }
    assert steps[4096].topology.num_slices == 16
    # The compiled figure corrects the others: as much work a chip, and about as much to exchange
    # over links that are as fast, or twice where rings close.
    assert all(3.4 < step.seconds < 4.2 for step in steps.values())
    # Compiler options that help the winner are expected to help the others.
    flagged = replace(winner, flags=(("a_flag", 1),))
    search.add(report(flagged, seconds=3.0, peak_gib=10.7, limit_gib=15.75))
    monkeypatch.setattr("jaxllm.commands.plan_scaling.SCALED_CHIPS", (16, 64))
    for step in scaled_steps(workload, search, topology):
        assert step.seconds == pytest.approx(0.75 * steps[step.rows // 4].seconds)


@pytest.mark.parametrize(
    ("tpu", "chips", "name", "slices"),
    [
        ("v5e", 64, "v5e:8x8", 1),
        ("v5e", 1024, "v5e:16x16", 4),
        ("v5p", 4096, "v5p:16x16x16", 1),
        ("v6e", 96, None, 0),
    ],
)
def test_many_chips_are_one_slice_or_several_of_the_largest(tpu, chips, name, slices):
    found = scaled_topology(TPUS[tpu], chips)
    assert (found and found.name, found.num_slices if found else 0) == (name, slices)


def test_the_workload_counts_parameters_as_training_does():
    whole = abstract_layout(ParallelConfig(fsdp=1))
    workload = llama2_7b()
    assert sum(piece.local_bytes(whole) for piece in workload.weights) == 4 * 6_738_415_616
    for name in ("yardstick_llama2_7b", "gpt2_124m"):
        config = load_config(find_config(name))
        parts = assemble(config, layout=config.parallel.build(), vocab_size=config.model.vocab_size)
        assert workload_of(config).num_matmul_params == parts.num_matmul_params


def test_the_screen_shows_what_is_compiled_and_what_runs(capsys):
    workload, topology = llama2_7b(), parse_topology("v5e:4x4")
    done = Candidate(ParallelConfig(fsdp=8, tensor=2), "full", "qkv", 1)
    found = [done, Candidate(ParallelConfig(fsdp=16), "qkv", "none", 2)]
    search = Search(estimates(workload, found, topology), limit=15.75 * 2**30)
    search.add(report(done, seconds=4.0, peak_gib=10.7, limit_gib=15.75, communication=1.0))
    search.take()
    screen = PlanScreen()
    screen.update(search)
    assert (
        "fsdp 8 x tensor 2 | remat full, qkv on host | 1 parts: 4.000 s" in capsys.readouterr().out
    )
    screen.show(screen.progress(search))
    shown = capsys.readouterr().out
    for words in ("fsdp 8 x tensor 2", "fsdp 16", "compiling", "matmul 75%, links 25%"):
        assert words in shown
    assert "1 compiled, 1 compiling, 0 more may win" in shown
