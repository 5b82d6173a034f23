"""Training that starts from the weights of another run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import yaml

from jaxllm.checkpoints.folders import folder_of
from jaxllm.checkpoints.start_head import StartHead
from jaxllm.checkpoints.store import CheckpointStore
from jaxllm.storage import as_path


class RunStart(StartHead):
    """Start from the weights of a run, the averaged ones if it has them."""

    type: Literal["run"] = "run"
    """Kind of weights: a run's."""
    path: str
    """The run folder."""
    step: int | None = None
    """The checkpoint, by its step; null is the newest."""

    def model(self) -> dict[str, Any]:
        """The run's model section. ValueError for a folder that is no run."""
        return self._config()["model"]

    def data(self) -> dict[str, Any]:
        """The run's data section, with what the data itself told. ValueError as `model`."""
        return self._config()["data"]

    def num_ids(self) -> int | None:
        """Ids that its data and objective used; None where it has no such checkpoint."""
        folder = self._folder() / "checkpoints"
        steps = sorted(folder_of(folder).steps())
        if not steps or (self.step is not None and self.step not in steps):
            return None  # told when the weights are looked at
        step = steps[-1] if self.step is None else self.step
        meta = (folder / str(step) / "meta" / "metadata").read_text(encoding="utf-8")
        return json.loads(meta)["vocab_size"]

    def check(self, abstract: Any) -> None:
        """ValueError for a run without that checkpoint, or of another architecture."""
        raw = self._config()
        adapter = raw.get("adapter") or {}
        if adapter.get("type") == "bottleneck":
            raise ValueError(
                f"init_from.path: {self.path} has bottleneck adapters, which are no part of "
                f"another network; start from {raw['init_from']['path']}, as it did"
            )
        if adapter or raw["training"].get("frozen"):
            raise ValueError(
                f"init_from.path: {self.path} saved only what it trained, beside the weights of "
                f"{raw['init_from']['path']}; write both as one model (jaxllm export {self.path} "
                "OUT) and start from that (init_from: {type: hf, path: OUT})"
            )
        with CheckpointStore(self._folder() / "checkpoints") as store:
            step = self._step(store)
            store.check_shapes(step, "params", self._item(store, step, abstract))

    def weights(
        self, abstract: Any, *, convert: Callable[[str, jax.Array], Any] | None = None
    ) -> Any:
        """The weights in the shapes and shardings of `abstract`. ValueError as `check`.

        convert: what is made of each, of its dotted path and itself, one after the other; None
        leaves them.
        """
        with CheckpointStore(self._folder() / "checkpoints") as store:
            step = self._step(store)
            saved = store.restore(step, "params", self._item(store, step, abstract))
        jax.block_until_ready(saved)
        chosen = saved.pop("ema", saved["weights"])
        del saved
        if convert is None:
            return chosen
        return jax.tree.map_with_path(
            lambda path, leaf: convert(".".join(str(key.key) for key in path), leaf), chosen
        )

    def _config(self) -> dict[str, Any]:
        file = self._folder() / "config.yaml"
        if not file.is_file():
            raise ValueError(f"init_from.path: {self.path} is no run folder; it has no config.yaml")
        return yaml.safe_load(file.read_text(encoding="utf-8"))

    def _folder(self) -> Path:
        return as_path(self.path).expanduser()

    @staticmethod
    def _item(store: CheckpointStore, step: int, abstract: Any) -> dict[str, Any]:
        return {"weights": abstract} | ({"ema": abstract} if store.has_average(step) else {})

    def _step(self, store: CheckpointStore) -> int:
        steps = store.steps()
        if not steps or (self.step is not None and self.step not in steps):
            which = "" if self.step is None else f" of step {self.step}"
            raise ValueError(
                f"init_from: {self.path} has no checkpoint{which}; it has {steps or 'none'}"
            )
        return steps[-1] if self.step is None else self.step
