"""The processes of a run, as different clusters say it; JAX's own detection counts the same."""

import http.server
import threading

import pytest
from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster, GkeTpuCluster
from jax._src.clusters.slurm_cluster import SlurmCluster

from jaxllm.parallel import clusters
from jaxllm.parallel.clusters import ask_metadata_server, find_gang

SLICE = {"TPU_WORKER_HOSTNAMES": "a,b,c", "TPU_WORKER_ID": "2"}
SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "first:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}
VM = {
    "worker-network-endpoints": "unknown:unknown:10.0.0.5,unknown:unknown:10.0.0.6",
    "agent-worker-number": "1",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nZONE: 'us-west4-a'\n",
}
TPU_ENV_OF_SLICES = "".join(f"{name}: '{value}'\n" for name, value in SLICES.items())
STEP = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "node[007-009,012],other",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}


def place(gang):
    return gang.rank, gang.count, gang.coordinator.joined, gang.lifeline.joined


def of_jax(cluster, monkeypatch, environ, *, metadata=VM):
    """What JAX's detection says: rank, count and the coordinator's host."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    module = "jax._src.clusters.cloud_tpu_cluster"
    monkeypatch.setattr(f"{module}.get_metadata", lambda key: (metadata.get(key, ""), 200))
    monkeypatch.setattr(cluster, "wait_for_coordinator", lambda *_: None, raising=False)
    address = cluster.get_coordinator_address(1, None)
    return cluster.get_process_id(), cluster.get_process_count(), address.split(":")[0]


def ours(gang):
    return gang.rank, gang.count, gang.coordinator.host


@pytest.mark.parametrize(
    "environ",
    [
        SLICE,
        SLICE | SLICES,
        {"TPU_PROCESS_ADDRESSES": "a:8476,b:8476", "TPU_WORKER_ID": "1"},
    ],
)
def test_hosts_of_tpu_slices_count_as_jax_counts_them(environ, monkeypatch):
    assert ours(find_gang(environ)) == of_jax(GkeTpuCluster, monkeypatch, environ)


@pytest.mark.parametrize("tpu_env", [VM["tpu-env"], VM["tpu-env"] + TPU_ENV_OF_SLICES])
def test_hosts_of_a_tpu_vm_are_in_its_metadata_as_jax_reads_it(tpu_env, monkeypatch):
    metadata = VM | {"tpu-env": tpu_env}
    gang = find_gang({}, metadata=metadata.get)
    assert ours(gang) == of_jax(GceTpuCluster, monkeypatch, {}, metadata=metadata)
    assert "found by the metadata of this TPU VM" in str(gang)


@pytest.mark.parametrize("nodes", ["node001", "a,b", "node[001-015],b", "node[001,007]"])
def test_tasks_of_slurm_count_as_jax_counts_them(nodes, monkeypatch):
    environ = STEP | {"SLURM_STEP_NODELIST": nodes, "SLURM_NTASKS": "4"}
    assert ours(find_gang(environ)) == of_jax(SlurmCluster, monkeypatch, environ)


def test_the_port_of_the_lifeline_follows_the_coordinators():
    assert place(find_gang(SLICE)) == (2, 3, "a:8482", "a:8483")
    assert place(find_gang(SLICE | SLICES)) == (5, 6, "first:8482", "first:8483")
    assert place(find_gang(STEP)) == (3, 4, "node007:63248", "node007:63249")


def test_variables_set_to_nothing_hide_slices_that_are_no_more():
    metadata = VM | {"tpu-env": TPU_ENV_OF_SLICES}
    cleared = dict.fromkeys(SLICES, "")
    assert place(find_gang(cleared, metadata=metadata.get))[:3] == (1, 2, "10.0.0.5:8482")


def test_what_a_person_sees():
    assert str(find_gang(SLICE)) == "3, found by TPU_WORKER_HOSTNAMES; coordinator a:8482"
    assert "MEGASCALE_COORDINATOR_ADDRESS (2 slices)" in str(find_gang(SLICE | SLICES))
    assert "found by Slurm job 5000" in str(find_gang(STEP))


def test_jax_variables_go_before_all():
    named = {
        "JAX_COORDINATOR_ADDRESS": "10.0.0.2:1234",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
    }
    assert ours(find_gang({**SLICE, **STEP, **named})) == (0, 2, "10.0.0.2")
    assert ours(find_gang({**SLICE, **STEP})) == ours(find_gang(SLICE))


@pytest.mark.parametrize(
    ("environ", "metadata"),
    [
        ({}, None),
        ({}, {}),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({}, {"worker-network-endpoints": "10.0.0.5", "agent-worker-number": "0"}),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({key: STEP[key] for key in ("SLURM_JOB_ID", "SLURM_NTASKS")}, None),  # no srun
    ],
)
def test_one_host_is_no_gang(environ, metadata):
    assert find_gang(environ, metadata=None if metadata is None else metadata.get) is None


@pytest.mark.parametrize(
    ("tasks", "visible", "own"),
    [
        ("1(x4)", {}, None),
        ("4(x2)", {}, (3,)),
        ("4", {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (3,)),
        ("4", {"CUDA_VISIBLE_DEVICES": "2"}, None),
    ],
)
def test_tasks_that_share_a_host_share_its_gpus(tasks, visible, own):
    environ = STEP | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_LOCALID": "3"} | visible
    assert find_gang(environ).local_devices == own


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "TPU_WORKER_ID=None is no number"),
        (SLICE | {"TPU_WORKER_ID": "3"}, "TPU_WORKER_ID=3 is no host of the 3"),
        (SLICE | SLICES | {"MEGASCALE_SLICE_ID": ""}, "MEGASCALE_SLICE_ID='' is no number"),
        (STEP | {"SLURM_JOB_ID": "x"}, "SLURM_JOB_ID='x' is no number"),
    ],
)
def test_half_of_what_is_needed_is_refused_with_the_variable(environ, message):
    with pytest.raises(ValueError, match=message):
        find_gang(environ)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as the metadata server of a TPU VM, or as one that is out of order."""

    def do_GET(self):
        *folder, key = self.path.split("/")
        assert folder == ["", "computeMetadata", "v1", "instance", "attributes"]
        assert self.headers["Metadata-Flavor"] == "Google"
        self.server.asked.append(key)
        status = 503 if len(self.server.asked) <= self.server.failures else 200
        status = 404 if status == 200 and key not in VM else status
        self.send_response(status)
        self.end_headers()
        self.wfile.write(VM.get(key, "").encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(clusters, "_PAUSE", 0.0)
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        server.asked, server.failures = [], 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_metadata_server_is_asked_again_where_it_fails(server):
    environ = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.failures = 3
    ask = ask_metadata_server(environ)
    assert place(find_gang({}, metadata=ask))[:3] == (1, 2, "10.0.0.5:8482")
    assert ask("no-such-attribute") is None
    server.failures = 1000
    with pytest.raises(OSError, match=r"set TPU_SKIP_MDS_QUERY=1") as caught:
        ask("agent-worker-number")
    assert "503" in str(caught.value)
    assert ask_metadata_server({"TPU_SKIP_MDS_QUERY": "1"}) is None
