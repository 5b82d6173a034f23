"""tpu/README.md: its figures by the chips and the recorded compiles, its commands, its links."""

import json
import math
import re
from pathlib import Path

import pytest

from jaxllm.aot.topology import parse_topology
from jaxllm.commands.plan_workload import make_search, workload_of
from jaxllm.config import load_config
from jaxllm.config_files import find_config, shipped_configs
from jaxllm.hardware import TPUS, find_chip

ROOT = Path(__file__).parents[2]
README = ROOT / "tpu" / "README.md"
TEXT = README.read_text(encoding="utf-8")
PODS = json.loads((ROOT / "tests" / "golden" / "pods.json").read_text(encoding="utf-8"))
KINDS = {"v4": "TPU v4", "v5e": "TPU v5e", "v5p": "TPU v5p", "v6e": "TPU v6e", "tpu7x": "TPU7x"}
ROW = re.compile(
    r"^\| (?:(\d+) of )?((\w+)-\d+) \| ([x\d]+) \| (\d+) \| (\d+) \| (\d+), ([\d,]+) \| (.+) \|$",
    re.MULTILINE,
)
PLAN = re.compile(r"^`jaxllm plan (\w+) --topology (\S+)`$")
ROWS = {match[0].split(" | ")[0].strip("| "): match.groups() for match in ROW.finditer(TEXT)}

each = pytest.mark.parametrize("name", ROWS)


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_no_row_is_left_out_of_the_checks():
    table = TEXT[TEXT.index("| slice |") :].strip().splitlines()
    assert len(table) - 2 == len(ROWS) > 30


@each
def test_a_slice_is_as_the_hardware_is(name):
    many, pod, generation, shape, chips, hosts, memory, total, _ = ROWS[name]
    tpu, slices = TPUS[generation], int(many or 1)
    assert tpu.pods[pod] == shape
    chips_of_one = math.prod(map(int, shape.split("x")))
    assert int(chips) == slices * chips_of_one
    is_one_host = chips_of_one <= (8 if tpu.torus_dims == 2 else 4)
    assert int(hosts) == slices * (1 if is_one_host else chips_of_one // 4)
    chip = find_chip(KINDS[generation])
    assert int(memory) == chip.memory_gib * tpu.devices_per_chip
    assert number(total) == int(memory) * int(chips)


@each
def test_a_config_was_compiled_for_its_slice_or_a_plan_has_something_to_try(name):
    many, pod, generation, shape, *_, last = ROWS[name]
    topology, slices = f"{generation}:{shape}", int(many or 1)
    recorded = {
        config: f"{pod['peak_hbm_gib']:.1f}"
        for config, pod in PODS.items()
        if (pod["topology"], pod["num_slices"]) == (topology, slices)
        and not config.startswith("yardstick")
    }
    if recorded:
        assert dict(re.findall(r"`(\w+)` ([\d.]+)", last)) == recorded
        return
    config_name, planned = PLAN.fullmatch(last).groups()
    assert planned == pod
    config = load_config(find_config(config_name))
    search = make_search(workload_of(config), parse_topology(pod), flags_set=set(config.xla_flags))
    assert search.num_open > 0


def test_every_recorded_pod_is_in_the_table():
    shown = {config for row in ROWS.values() for config in re.findall(r"`(\w+)` [\d.]+", row[-1])}
    assert shown == {config for config in PODS if not config.startswith("yardstick")}


def test_the_minutes_follow_from_the_records():
    pod, config = PODS["llama3_8b_v5e_16"], load_config(find_config("llama3_8b_v5e_16"))
    step = round(pod["predicted_step_seconds"], 2)
    tokens = config.data.global_batch_size * config.data.sequence_length
    minutes = config.training.steps * step / 60
    for words in (
        f"| 6 | {pod['compile_seconds'] / 60:.0f} | measured",
        f"each 1,000 steps of {tokens:,} tokens | {1000 * step / 60:.0f} | predicted",
        f"{step} s a step",
        f"all {config.training.steps:,} steps | {minutes:,.0f} ({minutes / 60:.0f} hours) |",
    ):
        assert words in TEXT
    encoder = re.search(
        r"`tokenizers` library's encoder[^|]*\| ([\d.]+) MB per CPU-second",
        (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"),
    )
    assert f"does [{encoder[1]} MB a second]" in TEXT
    assert f"| 7 | {math.ceil(1000 / float(encoder[1]) / 60)} for a GB" in TEXT


def test_there_are_ten_commands_of_files_and_configs_that_exist():
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    joined = block.replace("\\\n", " ")
    commands = [line for line in joined.splitlines() if line and line[0] not in "#e"]
    assert len(commands) == 10
    for name in re.findall(r"tpu/\w+\.sh|tpu/settings\.env\.example", TEXT):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"jaxllm (?:compile|prepare|plan|train) (\w+)", TEXT):
        assert name in shipped_configs()
    arguments = re.search(r'babysit\.sh "([^"]+)" (\S+)', block)
    config = load_config(find_config("llama3_8b_v5e_16"), arguments.groups())
    assert [dataset.type for dataset in config.data.datasets.values()] == ["prepared"]


@pytest.mark.parametrize("page", ["tpu/README.md", "tpu/gke/README.md"])
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert (folder / path).exists(), link
        if anchor:
            assert anchor in anchors(folder / path), link


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
