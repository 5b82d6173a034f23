"""How fast `jaxllm predict` is: rows sorted by length against rows as they come. Prints JSON.

    .venv/bin/python scripts/bench_predict.py [--records 2048] [--rounds 5]

Texts have log-normal lengths (median 40 bytes, a tail to 512), the encoder is small, its weights
random. `sorted` is what predict does; `in_order` fills each batch of a fixed number of rows up to
its longest. Figures are medians of rounds that take turns:

- positions_per_token: how much of a batch is filling; 1 is none.
- cpu_seconds, and ratio: of in_order over sorted.
- idle_share: of the time of a whole call, what is not spent on batches that lie ready.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxllm.commands.prediction_batches import PredictionBatches
from jaxllm.data.example_table import table_of
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.tokenizer import ByteTokenizer
from jaxllm.generation import BeamSearch
from jaxllm.hardware import quiet_tpu_runtime
from jaxllm.models import EncoderConfig
from jaxllm.nn.param import param_dict
from jaxllm.objectives import SequenceClassification
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.tasks import task_of

LENGTH, ROWS = 512, 16


class InOrder(PredictionBatches):
    """Batches of rows as they come, each as long as its longest needs."""

    def plan(self, sizes: np.ndarray) -> Iterator[tuple[np.ndarray, int, int]]:
        for start in range(0, len(sizes), ROWS):
            numbers = np.arange(start, min(start + ROWS, len(sizes)))
            yield numbers, ROWS, self._bucket(int(sizes[numbers].max()))


def main(records: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sizes = np.clip(np.exp(rng.normal(np.log(40), 1.0, records)), 1, 500).astype(int)
    table = table_of({"text": rng.integers(32, 126, size).astype(np.uint16)} for size in sizes)
    config = EncoderConfig(
        num_layers=4, embed_dim=128, num_heads=4, mlp_dim=512, head="sequence", num_labels=2
    )
    params = param_dict(config.build(jax.random.key(0), 257))
    model = jax.eval_shape(lambda: config.build(jax.random.key(0), 257))
    dataset = LabelledTextsConfig.model_validate(
        {"source": {"type": "jsonl", "paths": ["-"]}, "labels": ["a", "b"]}
    )
    doing = task_of(
        SequenceClassification(),
        model,
        dataset=dataset,
        tokenizer=ByteTokenizer(),
        layout=ParallelConfig().build(jax.devices()[:1]),
        rows=ROWS,
        length=LENGTH,
        search=BeamSearch(),
    )
    assert doing is not None
    given = {"length": LENGTH, "rows": ROWS, "num_devices": 1}
    kinds = {
        "sorted": PredictionBatches(doing, params, **given),
        "in_order": InOrder(doing, params, **given),
    }
    rows = dataset.rows(table, LENGTH, tokenizer=ByteTokenizer())
    cpu: dict[str, list[float]] = {name: [] for name in kinds}
    for batches in kinds.values():
        batches.answers(table)  # compiles
    for _ in range(rounds):
        for name, batches in kinds.items():
            before = time.process_time()
            batches.answers(table)
            cpu[name].append(time.process_time() - before)
    found: dict[str, Any] = {"records": records, "tokens": int(rows.sizes.sum())}
    for name, batches in kinds.items():
        positions = sum(size * length for _, size, length in batches.plan(rows.sizes))
        found[name] = {
            "positions_per_token": positions / found["tokens"],
            "cpu_seconds": statistics.median(cpu[name]),
        }
    found["ratio"] = found["in_order"]["cpu_seconds"] / found["sorted"]["cpu_seconds"]
    found["idle_share"] = idle_share(kinds["sorted"], doing, params, table, rows, rounds)
    return found


def idle_share(
    batches: PredictionBatches, doing: Any, params: Any, table: Any, rows: Any, rounds: int
) -> float:
    """Of the time of a whole call, what batches that lie ready would not need."""
    ready = [
        batches._batch(rows, numbers, size, length)
        for numbers, size, length in batches.plan(rows.sizes)
    ]
    shares = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready([doing.begin(params, batch) for batch in ready])
        middle = time.perf_counter()
        batches.answers(table)
        shares.append(1 - (middle - start) / (time.perf_counter() - middle))
    return statistics.median(shares)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    quiet_tpu_runtime()
    print(json.dumps(main(arguments.records, arguments.rounds), indent=2))
