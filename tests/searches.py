"""Workloads to search over, and a compiler that answers at once, from a seed."""

import random
from concurrent.futures import Future

from jaxllm.aot.search_outcome import Outcome
from jaxllm.commands.plan_workload import workload_of
from jaxllm.config import load_config
from jaxllm.config_files import find_config

TINY = """
run_dir: {folder}/run
model: {{vocab_size: 256, num_layers: 4, embed_dim: 64, num_heads: 4, num_kv_heads: 2, mlp_dim: 96}}
data:
  sequence_length: 64
  global_batch_size: 16
  root: {folder}/root
  datasets:
    ids: {{type: bin, train: {folder}/nowhere.bin, vocab_size: 256, delimiter_id: 0}}
optim: {{type: adamw, learning_rate: 0.01, schedule: {{type: constant, warmup_steps: 2}}}}
training: {{steps: 8}}
plan_cache: {folder}/plan
"""


def llama2_7b(*overrides):
    """The workload whose compiled figures are known."""
    return workload_of(load_config(find_config("yardstick_llama2_7b"), overrides))


def report(candidate, *, seconds, peak_gib, limit_gib, **parts):
    """An outcome as `compile` reports it. parts: seconds by kind, matmul the rest."""
    kinds = {"matmul": seconds - sum(parts.values()), **parts}
    fits = peak_gib <= limit_gib
    return Outcome(
        candidate,
        {
            "fits": fits,
            "peak_hbm_gib": peak_gib,
            "hbm_limit_gib": limit_gib,
            "predicted_step_seconds": seconds if fits else None,
            "predicted_mfu": 0.5 if fits else None,
            "tokens_per_second_per_chip": 1000.0 if fits else None,
            "seconds_by_kind": kinds if fits else {},
            "collectives": [{"axes": ["fsdp"], "exposed_seconds": 1.0}] if fits else [],
        },
    )


class FakeCompiler:
    """Answers between what arithmetic calls sure and one and a half times what it expects."""

    def __init__(self, estimates, *, limit, seed):
        self.estimates, self.limit, self.seed = estimates, limit, seed
        self.compiled = []

    def outcome(self, candidate):
        """The same answer whenever it is asked."""
        estimate = self.estimates[candidate]
        rng = random.Random(f"{self.seed} {candidate}")
        memory = estimate.memory
        peak = memory.lower + rng.random() * (1.5 * memory.expected - memory.lower)
        expected = sum(estimate.time.parts.values())
        seconds = max(estimate.time.lower, expected * rng.uniform(0.7, 1.5))
        gib = 2**30
        return report(
            candidate,
            seconds=seconds,
            peak_gib=peak / gib,
            limit_gib=self.limit / gib,
            communication=0.1 * seconds,
        )

    def submit(self, candidate):
        """A compile that is done at once."""
        self.compiled.append(candidate)
        future = Future()
        future.set_result(self.outcome(candidate))
        return future
