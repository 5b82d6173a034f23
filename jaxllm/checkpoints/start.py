"""Training that starts from the weights of another run."""

from pathlib import Path
from typing import Any, Literal

import jax
import yaml

from jaxllm.checkpoints.store import CheckpointStore
from jaxllm.schema import Config


class RunStart(Config):
    """Start from the weights of a run, the averaged ones if it has them."""

    type: Literal["run"] = "run"
    """Kind of weights: a run's."""
    path: str
    """The run folder."""
    step: int | None = None
    """The checkpoint, by its step; null is the newest."""

    def model(self) -> dict[str, Any]:
        """The run's model section. ValueError for a folder that is no run."""
        file = Path(self.path).expanduser() / "config.yaml"
        if not file.is_file():
            raise ValueError(f"init_from.path: {self.path} is no run folder; it has no config.yaml")
        return yaml.safe_load(file.read_text(encoding="utf-8"))["model"]

    def weights(self, abstract: Any) -> Any:
        """The weights in the shapes and shardings of `abstract`.

        ValueError for a run without that checkpoint, or of another architecture.
        """
        with CheckpointStore(Path(self.path).expanduser() / "checkpoints") as store:
            steps = store.steps()
            if not steps or (self.step is not None and self.step not in steps):
                which = "" if self.step is None else f" of step {self.step}"
                raise ValueError(
                    f"init_from: {self.path} has no checkpoint{which}; it has {steps or 'none'}"
                )
            step = steps[-1] if self.step is None else self.step
            is_averaged = store.has_average(step)
            item = {"weights": abstract} | ({"ema": abstract} if is_averaged else {})
            saved = store.restore(step, "params", item)
        jax.block_until_ready(saved)
        return saved["ema" if is_averaged else "weights"]
