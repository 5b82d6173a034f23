"""A pod of two hosts from its creation to the end of a real run, with a preemption between.

The scripts, `jaxllm launch` and the training are the real ones. The hosts are folders, their chips
one CPU device each; the bucket is one of the emulator, or a folder that all hosts see.
"""

import re
import subprocess

import pytest
from commands import runs

from . import repositories
from .fakes import hosts
from .fakes.scenario import Life, Scenario

CONFIG = "pod"
STEPS, EVERY = 120, 20
WAITS = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder that all hosts see, with the data."""
    folder = tmp_path_factory.mktemp("shared")
    runs.write_ids(folder)
    return folder


@pytest.fixture(scope="module")
def repository(shared, tmp_path_factory):
    """The code that the hosts get, with the config of a tiny run."""
    folder = tmp_path_factory.mktemp("shipped") / "jaxllm"
    text = runs.IDS_CONFIG.format(folder=shared)
    return repositories.with_package(folder, configs={CONFIG: text})


@pytest.fixture(scope="module")
def alone(shared, repository):
    """The run in two processes that nothing interrupts."""
    run_dir = shared / "alone"
    command = runs.command("launch", "--processes", 2, f"{repository}/configs/{CONFIG}.yaml")
    ended = subprocess.run(
        [*command, f"run_dir={run_dir}", *schedule()],
        env=runs.environment(devices=1),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return run_dir


def schedule():
    return f"training.steps={STEPS}", f"checkpoints.every={EVERY}"


@pytest.fixture
def babysit(make_cloud, repository):
    """Babysits a run whose first slice is taken away once a checkpoint is complete: the cloud."""

    def run(checkpoints, *, environment=None, **settings):
        """checkpoints: says which are complete. environment: of the hosts."""
        life = Life(states=WAITS, environment=environment or {})
        cloud = make_cloud(Scenario((life,), is_real=True), repository=repository)
        settings = {"JAXLLM_CONFIG": CONFIG, "JAXLLM_POLL": "0.5", **settings}
        babysitter = cloud.start("babysit.sh", *schedule(), **settings)
        babysitter.wait_until(checkpoints, "a checkpoint", within=200)
        cloud.preempt()
        ended = babysitter.ended(within=300)
        assert ended.code == 0, ended.err
        return cloud

    return run


def assert_two_lives(cloud):
    """The second began at the checkpoint of the first, and nothing is left that costs."""
    assert cloud.events == [
        *("created", *WAITS, "SUSPENDED", "deleted"),
        *("created", *WAITS, "deleted"),
    ]
    assert cloud.left == []
    assert hosts.processes(str(cloud.folder / "hosts")) == []
    log = (cloud.host("0.0", life=1) / "home/jaxllm-run/log").read_text()
    assert re.search(r"^processes +2, found by JAX_COORDINATOR_ADDRESS", log, re.M)
    resumed = re.search(r"resuming at step (\d+)", log)
    assert resumed, log
    assert int(resumed[1]) in range(EVERY, STEPS, EVERY)


def test_a_pod_that_is_preempted_finishes_as_one_that_is_not(babysit, shared, alone):
    """Its losses, weights and place in the data, with a folder for the bucket."""
    run_dir = shared / "babysat"
    cloud = babysit(
        lambda: (run_dir / "checkpoints" / str(EVERY)).exists(),
        JAXLLM_OVERRIDES=f"run_dir={run_dir} compilation_cache={shared}/compiled",
    )
    assert_two_lives(cloud)
    runs.assert_same_run(run_dir, alone, step=STEPS)


def test_the_same_in_a_bucket(babysit, bucket, alone, tmp_path):
    """All that a later life needs is in the bucket; the disks of the first went with it."""
    complete = f"runs/pod/checkpoints/{EVERY}/commit_success.txt"
    cloud = babysit(
        lambda: complete in bucket.files(),
        environment=bucket_variables(bucket),
        JAXLLM_BUCKET=bucket.url,
        **bucket_variables(bucket),
    )
    assert_two_lives(cloud)
    run_dir = tmp_path / "brought_down"
    for name, content in bucket.files("runs/pod").items():
        path = run_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    runs.assert_same_run(run_dir, alone, step=STEPS)


def bucket_variables(bucket):
    """What leads to the emulator, without the rest of this process's environment."""
    names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "GOOGLE_AUTH_TOKEN_FOR_TESTING")
    names += ("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",)
    return {name: bucket.environment[name] for name in names}
