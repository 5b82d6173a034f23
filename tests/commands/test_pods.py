"""The shipped pod configs, compiled by the real compiler; `make test-tpu-compile` runs them."""

import importlib.util
import json
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "record_pods", Path(__file__).parents[2] / "scripts" / "record_pods.py"
)
record_pods = importlib.util.module_from_spec(spec)
spec.loader.exec_module(record_pods)

GOLDEN = json.loads(record_pods.GOLDEN.read_text(encoding="utf-8"))
PODS = record_pods.pods()


def test_every_pod_config_is_recorded_and_fits():
    assert GOLDEN.keys() == PODS.keys()
    for name, golden in GOLDEN.items():
        assert golden["fits"], name
        assert golden["peak_hbm_gib"] <= golden["hbm_limit_gib"], name


@pytest.mark.libtpu
@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", PODS)
def test_a_pod_config_compiles_to_what_is_recorded(name):
    golden = GOLDEN[name]
    report = record_pods.compile_pod(name, *PODS[name])
    found = record_pods.golden(report)
    print(
        f"{name}: predicted {report.predicted_step_seconds} s a step, "
        f"recorded {golden['predicted_step_seconds']}"
    )
    assert found["fits"] == golden["fits"]
    assert found["collectives"] == golden["collectives"]
    # The compiler's heuristics move buffers a little between builds of the same version.
    assert found["peak_hbm_gib"] == pytest.approx(golden["peak_hbm_gib"], rel=0.02)
