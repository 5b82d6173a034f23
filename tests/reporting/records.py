"""Records as a run writes them."""

import math
from typing import Any


def training_records(steps: int, *, shift: float = 0.0) -> list[dict[str, Any]]:
    """Records as a run writes them, with a wobble that needs no random numbers."""
    records: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        wobble = math.sin(step * 12.9898) * 43758.5453 % 1 - 0.5
        loss = 3.3 + shift + 4.5 * math.exp(-6 * step / steps) + 0.25 * wobble
        records.append(
            {
                "step": step,
                "loss": loss,
                "learning_rate": 0.02 * min(1.0, 10 * step / steps, 1.6 * (1.02 - step / steps)),
                "gradient_norm": 0.4 + 8 * math.exp(-20 * step / steps) + 0.2 * wobble,
                "tokens_per_second": 21000 + 900 * wobble - (14000 if step == 1 else 0),
                "data_wait_share": 0.012 + 0.01 * wobble,
                "memory_bytes": 1.3e9 + 1e5 * step,
            }
        )
        if step % max(steps // 10, 1) == 0:
            validation = 3.4 + shift + 4.2 * math.exp(-6 * step / steps)
            records.append(
                {
                    "step": step,
                    "validation_loss": validation,
                    "validation_bits_per_byte": validation * 0.45,
                }
            )
            records.append(
                {
                    "step": step,
                    "prompt": "Fellow citizens of the Senate",
                    "sample": " and of the House of Representatives, the state of the Union",
                }
            )
    return records
