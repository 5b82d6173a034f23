import jax
import pytest
from searches import TINY, llama2_7b

from jaxllm.aot.search_space import abstract_layout, candidates, policies
from jaxllm.commands.assembly import assemble, check_devices
from jaxllm.commands.plan_compiler import with_candidate
from jaxllm.commands.plan_workload import workload_of
from jaxllm.config import load_config
from jaxllm.nn.remat import NAMES
from jaxllm.parallel.mesh import ParallelConfig

MOE = "model.moe={num_experts: 4, top_k: 2}"


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(folder=tmp_path))
    return path


@pytest.mark.parametrize("overrides", [(), (MOE,), ("data.global_batch_size=24",)])
def test_every_candidate_is_accepted_by_what_compile_checks(config_file, overrides):
    config = load_config(config_file, overrides)
    found = candidates(workload_of(config), num_devices=8)
    assert len(found) == len(set(found))
    by_mesh = {(each.parallel, each.num_microbatches): each for each in found}
    for candidate in by_mesh.values():
        planned = with_candidate(config, candidate)
        layout = check_devices(planned, jax.devices())
        assert dict(layout.mesh.shape) == dict(abstract_layout(candidate.parallel).mesh.shape)
    for layout in {each.parallel: check_devices(with_candidate(config, each)) for each in found}:
        assemble(config, layout=layout.build(), vocab_size=256)


def test_what_divides_is_among_the_candidates():
    meshes = {each.parallel for each in candidates(llama2_7b(), num_devices=16)}
    assert ParallelConfig(fsdp=16) in meshes
    assert ParallelConfig(fsdp=8, tensor=2) in meshes
    assert ParallelConfig(fsdp=8, data=2) in meshes
    assert ParallelConfig(fsdp=16, layout="zero1") in meshes
    assert all(mesh.context == 1 and mesh.expert == 1 for mesh in meshes)  # rows of 2,048, dense


def test_axes_are_opened_by_what_needs_them(config_file):
    def meshes(*overrides, **options):
        workload = workload_of(load_config(config_file, overrides))
        return {each.parallel for each in candidates(workload, **options)}

    assert {mesh.expert for mesh in meshes(MOE, num_devices=8)} == {1, 2, 4}
    long = meshes("data.sequence_length=32768", num_devices=8)
    assert {mesh.context for mesh in long} == {1, 2, 4, 8}
    assert {mesh.context_attention for mesh in long} == {"all_gather", "ring", "ulysses"}
    chunked = meshes("data.sequence_length=32768", "objective.num_chunks=8192", num_devices=8)
    assert {mesh.context for mesh in chunked} == {1, 2, 4}  # a chunk of no position is none
    deep = meshes("model.num_layers=48", "data.global_batch_size=512", num_devices=32)
    assert {mesh.stage for mesh in deep} >= {1, 2, 4}
    sliced = meshes(num_devices=8, num_slices=2)
    assert {mesh.slice for mesh in sliced} == {2}


def test_no_two_policies_keep_the_same():
    kept = {
        (
            frozenset({*NAMES.get(remat, ()), *({remat} & {"none", "dots"})} - {*NAMES[offload]}),
            offload,
        )
        for remat, offload in policies()
    }
    assert len(kept) == len(policies()) == 15


def test_rows_that_no_layout_divides_are_refused(config_file):
    workload = workload_of(load_config(config_file, ["data.global_batch_size=7"]))
    with pytest.raises(ValueError, match=r"data\.global_batch_size is 7: no layout of 8 devices"):
        candidates(workload, num_devices=8)


def test_an_optimizer_in_host_memory_stays_there(config_file):
    workload = workload_of(load_config(config_file, ["parallel.offload_optimizer=true"]))
    assert all(each.parallel.offload_optimizer for each in candidates(workload, num_devices=8))
