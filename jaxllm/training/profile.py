"""A window of steps recorded by JAX's profiler, to be opened in TensorBoard or Perfetto."""

from pathlib import Path

import jax
from pydantic import NonNegativeInt, PositiveInt

from jaxllm.schema import Config


class ProfileConfig(Config):
    """Which steps are recorded."""

    start: NonNegativeInt | None = None
    """First step recorded, counted from 0; null records nothing. The first steps also compile."""
    steps: PositiveInt = 3
    """How many steps are recorded."""

    def build(self, folder: Path) -> "ProfileWindow":
        """The window, writing under `folder`."""
        return ProfileWindow(folder, self)


class ProfileWindow:
    """Starts and stops the profiler as steps go by. A context manager: leaving it stops it."""

    def __init__(self, folder: Path, config: ProfileConfig):
        self._folder = folder
        self._first = -1 if config.start is None else config.start
        self._last = self._first + config.steps
        self._is_running = False

    def __enter__(self) -> "ProfileWindow":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before_step(self, step: int, pending: object) -> None:
        """Call before step `step` (from 0); `pending` is what the last step computes."""
        if step == self._first:
            jax.profiler.start_trace(self._folder)
            self._is_running = True
        elif step >= self._last and self._is_running:
            jax.block_until_ready(pending)  # steps run ahead of the loop; wait for those meant
            self._stop()

    def _stop(self) -> None:
        if self._is_running:
            self._is_running = False
            jax.profiler.stop_trace()
