"""How long a step with adapters takes, beside a step that trains all weights on the same batch.

    .venv/bin/python scripts/bench_lora.py [--size 25m] [--json FILE]

CPU-seconds a step on one core, float32, AdamW; the kinds take turns in one process, and the median
of their turns counts. --gpu measures the clock instead, with bf16 compute. `ratio` is to the full
step. `flops_ratio` is that of the operations that XLA counts in the two programs: adapters leave
out the products that make gradients of weights that stay, a third of the full step's.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from bench_train_jax import OPTIMIZER, SIZES, Size, make_batch

from jaxllm.hardware import keep_freed_memory
from jaxllm.nn.adapters import LoraConfig, is_adapter
from jaxllm.nn.bottleneck import BottleneckConfig
from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.nn.parts import part_like, split
from jaxllm.objectives import CausalLm
from jaxllm.parallel.layouts import weight_items
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.training.state import init_sharded, new_state, state_shardings
from jaxllm.training.step import make_loss, make_train_step

EVERYWHERE = ("*.attention", "*.mlp")
QUERIES_VALUES = ("*.query", "*.value")  # as in arXiv:2106.09685, section 4.2
KINDS: dict[str, Any] = {
    "full": None,
    "lora_queries_values": LoraConfig(rank=16, targets=QUERIES_VALUES),
    "lora": LoraConfig(rank=16, targets=EVERYWHERE),
    "lora_dropout": LoraConfig(rank=16, targets=EVERYWHERE, dropout=0.05),
    "dora": LoraConfig(rank=16, targets=EVERYWHERE, has_magnitude=True),
    "bottleneck": BottleneckConfig(size=64, targets=EVERYWHERE),
}


class Run:
    """The step of one kind, compiled, and its state."""

    def __init__(self, size: Size, adapter: Any, *, clock: Callable[[], float]):
        layout = ParallelConfig(layout="data").build(jax.devices()[:1])

        def build(key: jax.Array) -> Any:
            model = size.model.build(key, size.vocab_size)
            if adapter is not None:
                adapter.attach(key, model)
            return model

        model = jax.eval_shape(build, jax.random.key(0))
        specs = spec_dict(model)
        paths = {path for path, _ in weight_items(specs)}
        chosen = paths if adapter is None else {path for path in paths if is_adapter(path)}
        trained, frozen = split(specs, chosen)
        optimizer = OPTIMIZER.build(trained, total_steps=1)

        def make_state(key: jax.Array) -> Any:
            params = param_dict(build(key))
            others = part_like(params, frozen) if frozen else None
            return new_state(part_like(params, trained), optimizer, None, frozen=others)

        abstract = jax.eval_shape(make_state, jax.random.key(0))
        shardings = state_shardings(abstract, trained, layout, frozen=frozen or None)
        step = make_train_step(
            make_loss(CausalLm(), model, layout),
            optimizer,
            specs=trained,
            layout=layout,
            schedule=OPTIMIZER.schedule_fn(1),
            seed=0,
        )
        self._state = init_sharded(make_state, jax.random.key(0), shardings)
        self._batch = jax.device_put(make_batch(size))
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.sharding()))
        self._step = jitted.lower(self._state, self._batch).compile()
        self._clock = clock
        self.num_trained = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
        self.flops = float((self._step.cost_analysis() or {}).get("flops", 0.0))

    def seconds(self, steps: int) -> float:
        """Seconds a step, the mean of `steps` of them."""
        begin = self._clock()
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return (self._clock() - begin) / steps


def measure(size: Size, given: argparse.Namespace) -> dict[str, Any]:
    """Figures by kind."""
    clock = time.perf_counter if given.gpu else time.process_time
    names = ["full", *(name for name in given.kinds if name != "full")]
    kinds = {name: Run(size, KINDS[name], clock=clock) for name in names}
    for run in kinds.values():
        run.seconds(1)
    turns: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(given.rounds):
        for name, run in kinds.items():
            turns[name].append(run.seconds(given.steps))
    medians = {name: statistics.median(found) for name, found in turns.items()}
    full = kinds["full"]
    return {
        name: {
            "seconds": round(medians[name], 4),
            "ratio": round(medians[name] / medians["full"], 3),
            "spread": [round(min(turns[name]), 4), round(max(turns[name]), 4)],
            "flops_ratio": round(run.flops / full.flops, 3) if full.flops else None,
            "trained_weights": run.num_trained,
        }
        for name, run in kinds.items()
    }


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="bf16, and seconds of the clock")
    parser.add_argument("--size", choices=SIZES, default="25m")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=9, help="turns of each kind")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    keep_freed_memory()
    if not given.gpu:
        jax.config.update("jax_platforms", "cpu")
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    size = SIZES[given.size]
    dtype = "bfloat16" if given.gpu else "float32"
    size = replace(size, model=size.model.model_copy(update={"dtype": dtype}))
    results = {
        "size": given.size,
        "device": jax.devices()[0].device_kind,
        "clock": "wall" if given.gpu else "cpu",
        "kinds": measure(size, given),
    }
    print(json.dumps(results, indent=2))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
