import pytest
from searches import llama2_7b

from jaxllm.aot.search_memory import estimate_memory
from jaxllm.aot.search_space import Candidate, candidates
from jaxllm.parallel.mesh import ParallelConfig

GIB = 2**30
FSDP_16, FSDP_8_TENSOR_2 = ParallelConfig(fsdp=16), ParallelConfig(fsdp=8, tensor=2)


# Peaks in GiB that the TPU compiler (libtpu 0.0.50.1) reported for Llama-2-7B, 2,048 positions.
@pytest.mark.parametrize(
    ("parallel", "rows", "remat", "offload", "parts", "peak"),
    [
        (FSDP_16, 64, "full", "none", 1, 10.7),
        (ParallelConfig(fsdp=8), 32, "full", "none", 1, 17.5),
        (FSDP_8_TENSOR_2, 64, "full", "none", 1, 10.7),
        (FSDP_16, 64, "full", "qkv", 1, 10.9),
        (FSDP_8_TENSOR_2, 64, "full", "qkv", 1, 10.9),
        (FSDP_16, 64, "qkv", "none", 1, 16.3),
        (FSDP_8_TENSOR_2, 64, "qkv", "none", 1, 16.3),
        (FSDP_16, 64, "qkv", "none", 2, 13.9),
        (FSDP_8_TENSOR_2, 64, "matmuls", "none", 4, 14.7),
        (FSDP_16, 64, "qkv_mlp", "none", 1, 29.3),
        (FSDP_8_TENSOR_2, 64, "qkv_mlp", "none", 1, 29.2),
        (ParallelConfig(fsdp=8), 32, "qkv_mlp", "none", 1, 36.1),
    ],
)
def test_compiled_peaks_are_estimated(parallel, rows, remat, offload, parts, peak):
    workload = llama2_7b(f"data.global_batch_size={rows}")
    memory = estimate_memory(workload, Candidate(parallel, remat, offload, parts))
    assert memory.lower < peak * GIB
    # Good enough to put candidates in order; what is compiled corrects it.
    assert memory.expected / GIB == pytest.approx(peak, rel=0.08)


def test_the_state_is_exact():
    memory = estimate_memory(llama2_7b(), Candidate(FSDP_16, "full", "none", 1))
    # 6,738,415,616 float32 weights and two moments over 16 devices; counters are negligible.
    assert memory.state / (3 * 4 * 6_738_415_616 / 16) == pytest.approx(1, abs=1e-5)


def test_the_bound_is_below_the_estimate_and_both_fall_where_they_must():
    workload = llama2_7b()
    found = {each: estimate_memory(workload, each) for each in candidates(workload, num_devices=16)}
    assert all(0 < each.lower < each.expected for each in found.values())

    def expected(parallel, remat, offload="none", parts=1):
        return found[Candidate(parallel, remat, offload, parts)].expected

    policies = ("full", "qkv", "qkv_mlp", "matmuls", "none")
    peaks = [expected(FSDP_16, policy) for policy in policies]
    assert peaks == sorted(peaks)
    assert len(set(peaks)) == len(peaks)
    assert expected(FSDP_16, "matmuls", parts=4) < expected(FSDP_16, "matmuls", parts=2)
    assert expected(FSDP_16, "matmuls", "qkv") < expected(FSDP_16, "matmuls")
    zero1 = ParallelConfig(fsdp=16, layout="zero1")
    assert expected(FSDP_16, "full") < expected(zero1, "full")


def test_logits_in_chunks_need_less():
    candidate = Candidate(FSDP_16, "full", "none", 1)
    whole, chunked = (
        estimate_memory(llama2_7b("model.vocab_size=256000", *chunks), candidate)
        for chunks in ((), ("objective.num_chunks=8",))
    )
    assert chunked.expected < whole.expected
    assert chunked.lower == whole.lower
