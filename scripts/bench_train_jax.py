"""The jaxllm half of bench_train.py: model sizes, batches, and the step, compiled."""

import importlib.metadata
import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.nn.param import param_dict, spec_dict
from jaxllm.objectives import CausalLm
from jaxllm.optim import AdamW
from jaxllm.optim.schedules import Constant
from jaxllm.parallel.layouts import weight_items
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.training.state import init_sharded, new_state, state_shardings
from jaxllm.training.step import make_loss, make_train_step

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
OPTIMIZER = AdamW(learning_rate=1e-3, schedule=Constant())


@dataclass(frozen=True)
class Size:
    """A model and its batch: `rows` sequences of `length` tokens of a vocabulary."""

    model: DecoderConfig
    vocab_size: int
    rows: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.rows * self.length


# Unrolled, as PyTorch has it.
SIZES = {
    "tiny": Size(
        DecoderConfig(
            num_layers=2, embed_dim=64, num_heads=4, num_kv_heads=2, mlp_dim=128, is_scanned=False
        ),
        vocab_size=128,
        rows=2,
        length=32,
    ),
    "25m": Size(
        DecoderConfig(num_layers=6, embed_dim=512, num_heads=8, mlp_dim=1536, is_scanned=False),
        vocab_size=4096,
        rows=4,
        length=128,
    ),
    "124m": Size(
        DecoderConfig(
            num_layers=12,
            embed_dim=768,
            num_heads=12,
            mlp_dim=2048,
            is_tied=True,
            is_scanned=False,
        ),
        vocab_size=50304,
        rows=16,
        length=1024,
    ),
    "1b": Size(
        DecoderConfig(
            num_layers=16,
            embed_dim=2048,
            num_heads=32,
            num_kv_heads=8,
            mlp_dim=8192,
            is_tied=True,
            is_scanned=False,
        ),
        vocab_size=128256,
        rows=4,
        length=2048,
    ),
}


def make_batch(size: Size) -> dict[str, Any]:
    """Random tokens: `targets` are `tokens` moved on by one."""
    rng = np.random.default_rng(0)
    stream = rng.integers(0, size.vocab_size, (size.rows, size.length + 1), dtype=np.int32)
    positions = np.arange(size.length, dtype=np.int32)
    return {
        "tokens": stream[:, :-1],
        "targets": stream[:, 1:],
        "segment_ids": None,
        "positions": np.tile(positions, (size.rows, 1)),
        "loss_mask": np.ones((size.rows, size.length), np.float32),
        "example_index": np.arange(size.rows, dtype=np.uint32),
    }


class JaxHalf:
    """jaxllm's own step, compiled."""

    def __init__(self, size: Size, *, clock: Callable[[], float]):
        """clock: process_time counts CPU seconds of all threads, perf_counter wall seconds."""
        layout = ParallelConfig(layout="data").build(jax.devices()[:1])
        model = jax.eval_shape(lambda: size.model.build(jax.random.key(0), size.vocab_size))
        self.specs = spec_dict(model)
        optimizer = OPTIMIZER.build(self.specs, total_steps=1)

        def make_state(key: jax.Array) -> Any:
            return new_state(param_dict(size.model.build(key, size.vocab_size)), optimizer, None)

        abstract = jax.eval_shape(make_state, jax.random.key(0))
        shardings = state_shardings(abstract, self.specs, layout)
        step = make_train_step(
            make_loss(CausalLm(), model, layout),
            optimizer,
            specs=self.specs,
            layout=layout,
            schedule=OPTIMIZER.schedule_fn(1),
            seed=0,
        )
        self._state = init_sharded(make_state, jax.random.key(0), shardings)
        self._batch = jax.device_put(make_batch(size))
        compiled = jax.jit(step, donate_argnums=0, out_shardings=(shardings, layout.sharding()))
        self._step = compiled.lower(self._state, self._batch).compile()
        self._clock = clock
        self.info: dict[str, Any] = {name: importlib.metadata.version(name) for name in PACKAGES}
        self.info["python"] = platform.python_version()
        self.info["matmul_gflops"] = self._matmul_gflops()

    def parameters(self, *roles: str) -> int:
        """Number of weights of these roles, by default of all."""
        return sum(
            math.prod(spec.shape)
            for _, spec in weight_items(self.specs)
            if not roles or spec.role in roles
        )

    def weights(self) -> dict[str, np.ndarray]:
        """The current weights by dotted path."""
        return {path: np.asarray(leaf) for path, leaf in weight_items(self._state.params)}

    def losses(self, steps: int) -> list[float]:
        """The loss before each of `steps` updates."""
        return [float(self._advance()["loss"]) for _ in range(steps)]

    def seconds(self, steps: int) -> float:
        """Seconds a step, the mean of `steps` of them."""
        begin = self._clock()
        for _ in range(steps):
            metrics = self._advance()
        jax.block_until_ready((self._state, metrics))
        return (self._clock() - begin) / steps

    def _advance(self) -> dict[str, jax.Array]:
        self._state, metrics = self._step(self._state, self._batch)
        return metrics

    def _matmul_gflops(self) -> float:
        """The rate of a bare matmul: what the step could reach if it were nothing else."""
        n, dtype = (8192, jnp.bfloat16) if jax.default_backend() == "gpu" else (1024, jnp.float32)
        a = jnp.ones((n, n), dtype)
        multiply = jax.jit(jnp.matmul).lower(a, a).compile()
        seconds = []
        for _ in range(10):
            begin = self._clock()
            multiply(a, a).block_until_ready()
            seconds.append(self._clock() - begin)
        return 2e-9 * n**3 / statistics.median(seconds)
