"""The manifests of tpu/gke, rendered by kustomize and held against the schemas of their kinds."""

import copy
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from jaxllm.config import load_config
from jaxllm.config_files import find_config
from jaxllm.exit_codes import EXIT_CTRL_C, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from jaxllm.hardware import TPUS
from jaxllm.parallel.clusters import find_gang
from jaxllm.training.watchdog import WatchdogConfig

ROOT = Path(__file__).parents[2]
GKE = ROOT / "tpu" / "gke"
README = (GKE / "README.md").read_text(encoding="utf-8")
KUBERNETES = "1.37"
SCHEMA = yaml.safe_load((Path(__file__).parent / "jobset_schema.yaml").read_text(encoding="utf-8"))
PODS = json.loads((ROOT / "tests" / "golden" / "pods.json").read_text(encoding="utf-8"))
OVERLAYS = sorted(path.name for path in (GKE / "overlays").iterdir())

each = pytest.mark.parametrize("overlay", OVERLAYS)


def render(folder: Path) -> dict[str, dict]:
    """The objects of a kustomization by kind; kubectl has kustomize built in."""
    kubectl = Path(sys.executable).with_name("kubectl")
    text = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=True
    ).stdout
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def check(document: dict) -> None:
    """An exception if an object has a field that its kind does not know, or a wrong value."""
    if document["kind"] != "JobSet":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, SCHEMA)
    for replicated in document["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "any"}}
        kubernetes_validate.validate(job | replicated["template"], KUBERNETES, strict=True)


def job_of(jobset: dict) -> dict:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_of(jobset: dict) -> dict:
    return job_of(jobset)["template"]["spec"]


def container_of(jobset: dict) -> dict:
    return pod_of(jobset)["containers"][0]


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, dict]]:
    return {overlay: render(GKE / "overlays" / overlay) for overlay in OVERLAYS}


@each
def test_it_renders_to_objects_that_their_schemas_allow(overlay, rendered):
    assert rendered[overlay].keys() == {"ConfigMap", "JobSet"}
    for document in rendered[overlay].values():
        check(document)


@pytest.mark.parametrize(
    ("field", "misspelt"),
    [
        ("maxRestarts", "maxRestart"),
        ("onJobFailureReasons", "onJobFailureReason"),
        ("replicatedJobs", "replicatedJob"),
        ("enableDNSHostnames", "enableDnsHostnames"),
        ("podReplacementPolicy", "podReplacement"),
        ("onExitCodes", "onExitCode"),
        ("livenessProbe", "livenesProbe"),
        ("containerPort", "port"),
        ("mountPath", "path"),
        ("FailJobSet", "FailJobset"),
    ],
)
def test_a_misspelt_word_is_seen(field, misspelt, rendered):
    jobset = json.dumps(rendered["spot"]["JobSet"])
    assert f'"{field}"' in jobset
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(json.loads(jobset.replace(f'"{field}"', f'"{misspelt}"')))


@each
def test_the_slices_are_those_that_the_config_was_compiled_for(overlay, rendered):
    jobset, run = rendered[overlay]["JobSet"], rendered[overlay]["ConfigMap"]["data"]
    proved = PODS[run["CONFIG"]]
    generation, shape = proved["topology"].split(":")
    accelerators = {"v5e": "tpu-v5-lite-podslice"}
    selector = pod_of(jobset)["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == accelerators[generation]
    assert selector["cloud.google.com/gke-tpu-topology"] == shape
    assert jobset["spec"]["replicatedJobs"][0]["replicas"] == proved["num_slices"]
    chips = container_of(jobset)["resources"]["limits"]["google.com/tpu"]
    job = job_of(jobset)
    assert job["parallelism"] == job["completions"]
    assert job["parallelism"] * chips == math.prod(map(int, shape.split("x")))


@each
def test_the_arguments_make_the_config_of_a_run(overlay, rendered):
    run = rendered[overlay]["ConfigMap"]["data"]
    args = [
        re.sub(r"\$\((\w+)\)", lambda name: run[name[1]], argument)
        for argument in container_of(rendered[overlay]["JobSet"])["args"]
    ]
    assert args[0] == "train"
    config = load_config(find_config(args[1]), args[2:])
    assert config.run_dir == run["RUN_DIR"]
    assert config.compilation_cache == run["COMPILATION_CACHE"]
    assert [dataset.path for dataset in config.data.datasets.values()] == [run["DATASET"]]


@each
def test_what_gke_tells_the_pods_makes_one_gang(overlay, rendered):
    jobset = rendered[overlay]["JobSet"]
    slices, hosts = jobset["spec"]["replicatedJobs"][0]["replicas"], job_of(jobset)["parallelism"]
    gangs = [
        find_gang(pod_environment(jobset, slice_id=slice_id, host=host))
        for slice_id in range(slices)
        for host in range(hosts)
    ]
    assert [gang.rank for gang in gangs] == list(range(slices * hosts))
    assert {gang.count for gang in gangs} == {slices * hosts}
    (coordinator,) = {gang.coordinator.joined for gang in gangs}
    (lifeline,) = {gang.lifeline.joined for gang in gangs}
    ports = {port["name"]: port["containerPort"] for port in container_of(jobset)["ports"]}
    assert coordinator == f"jaxllm-slice-0-0.jaxllm:{ports['coordinator']}"
    assert lifeline == f"jaxllm-slice-0-0.jaxllm:{ports['lifeline']}"
    assert {gang.start_timeout for gang in gangs} == {3600.0}


def pod_environment(jobset: dict, *, slice_id: int, host: int) -> dict[str, str]:
    """The variables of a pod: those of the manifest, and what GKE adds for a TPU slice.

    https://docs.cloud.google.com/kubernetes-engine/docs/concepts/tpus and
    https://docs.cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice; hosts have the names
    that JobSet gives them.
    """
    (replicated,) = jobset["spec"]["replicatedJobs"]
    name = jobset["metadata"]["name"]
    job = f"{name}-{replicated['name']}"
    hosts = [f"{job}-{slice_id}-{i}.{name}" for i in range(job_of(jobset)["parallelism"])]
    environment = {
        **{variable["name"]: variable["value"] for variable in container_of(jobset)["env"]},
        "TPU_WORKER_ID": str(host),
        "TPU_WORKER_HOSTNAMES": ",".join(hosts),
    }
    if replicated["replicas"] > 1:
        environment |= {
            "MEGASCALE_COORDINATOR_ADDRESS": f"{job}-0-0.{name}",
            "MEGASCALE_NUM_SLICES": str(replicated["replicas"]),
            "MEGASCALE_SLICE_ID": str(slice_id),
        }
    return environment


@each
def test_exit_codes_mean_what_they_do(overlay, rendered):
    jobset = rendered[overlay]["JobSet"]
    rules = job_of(jobset)["podFailurePolicy"]["rules"]
    container = container_of(jobset)["name"]
    on_codes = [rule for rule in rules if "onExitCodes" in rule]
    assert {rule["onExitCodes"]["containerName"] for rule in on_codes} == {container}
    by_action = {rule["action"]: rule["onExitCodes"]["values"] for rule in on_codes}
    assert by_action == {"FailJob": [EXIT_USAGE, EXIT_CTRL_C], "Ignore": [EXIT_INTERRUPTED]}
    assert job_of(jobset)["backoffLimit"] == 0
    assert pod_of(jobset)["restartPolicy"] == "Never"
    (final,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (final["action"], final["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])


@each
def test_a_pod_has_time_to_save_and_a_hung_one_has_not(overlay, rendered):
    pod = pod_of(rendered[overlay]["JobSet"])
    assert pod["terminationGracePeriodSeconds"] >= 30
    probe = container_of(rendered[overlay]["JobSet"])["livenessProbe"]
    assert probe["terminationGracePeriodSeconds"] < pod["terminationGracePeriodSeconds"]
    command = probe["exec"]["command"][-1]
    watchdog = WatchdogConfig()
    limit = float(command.split("--limit ")[1])
    assert limit > max(watchdog.limit, watchdog.start_limit)


def test_the_probe_kills_only_what_is_stuck(tmp_path, rendered):
    """This machine's process 1 stands for the container's; a limit of seconds for the pods' one."""
    shell, option, command = container_of(rendered["spot"]["JobSet"])["livenessProbe"]["exec"][
        "command"
    ]
    command = command.replace("python ", f"{sys.executable} ").replace("--limit 5400", "--limit 5")

    def answer() -> int:
        environment = {"RUN_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([shell, option, command], env=environment, cwd=ROOT, check=False)
        return done.returncode

    def beat(when: float) -> None:
        record = {"step": 3, "phase": "step", "time": when}
        (tmp_path / "heartbeat").write_text(json.dumps(record))

    assert answer() == 0  # nothing was written yet
    beat(time.time() + 60)  # a busy machine may take long to ask
    assert answer() == 0
    beat(time.time() - 6)
    assert answer() == 1
    beat(0.0)  # by another pod, before this one
    assert answer() == 0


@each
def test_what_is_cached_has_room(overlay, rendered):
    """The mirror of the run folder and shards go to a volume, not to the container's own layer."""
    container = container_of(rendered[overlay]["JobSet"])
    (cache,) = [one["value"] for one in container["env"] if one["name"] == "XDG_CACHE_HOME"]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_of(rendered[overlay]["JobSet"])["volumes"]}
    assert volumes.keys() == set(mounted.values())
    assert volumes[mounted[cache]]["emptyDir"] == {}


def test_spot_and_kueue_add_what_they_are_for(rendered):
    alone = copy.deepcopy(rendered["spot"]["JobSet"])
    pod = pod_of(alone)
    assert pod["nodeSelector"].pop("cloud.google.com/gke-spot") == "true"
    (toleration,) = pod.pop("tolerations")
    assert toleration["key"] == "cloud.google.com/gke-spot"
    assert alone == rendered["single-slice-v5e-16"]["JobSet"]
    queued = copy.deepcopy(rendered["kueue"]["JobSet"])
    assert queued["metadata"].pop("labels") == {"kueue.x-k8s.io/queue-name": "jaxllm"}
    assert queued == rendered["multi-slice-v5e-64"]["JobSet"]


def test_components_go_together_in_an_overlay_of_ones_own(tmp_path):
    def relative(*parts: str) -> str:  # kustomize takes no other
        return os.path.relpath(GKE.joinpath(*parts), tmp_path)

    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [relative("overlays", "multi-slice-v5e-64")],
        "components": [relative("components", part) for part in ("spot", "kueue")],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    jobset = render(tmp_path)["JobSet"]
    check(jobset)
    assert jobset["metadata"]["labels"]
    assert pod_of(jobset)["tolerations"]


def test_xpk_runs_the_same_and_restarts_after_what_may_go_on():
    (command,) = re.findall(r"xpk workload create .*?(?=\n```)", README, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    options = dict(itertools.pairwise(words))
    assert options["--restart-on-exit-codes"] == f"{EXIT_FAILED},{EXIT_INTERRUPTED}"
    assert int(options["--termination-grace-period-seconds"]) >= 30
    inner = shlex.split(options["--command"])
    assert inner[:3] == ["exec", "jaxllm", "train"]
    config = load_config(find_config(inner[3]), inner[4:])
    assert config.data.datasets.keys() == {"web"}
    tpu = TPUS["v5e"].pods[options["--tpu-type"].replace("v5litepod", "v5e")]
    assert PODS[inner[3]]["topology"] == f"v5e:{tpu}"


def test_the_readme_has_a_node_for_every_generation(rendered):
    rows = re.findall(r"^\| (\w+) \| `(\S+)` \| `\S+-4t` \| 4 \|$", README, re.MULTILINE)
    assert [generation for generation, _ in rows] == list(TPUS)
    selector = pod_of(rendered["spot"]["JobSet"])["nodeSelector"]
    assert dict(rows)["v5e"] == selector["cloud.google.com/gke-tpu-accelerator"]
