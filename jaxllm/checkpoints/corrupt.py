"""The error for a checkpoint that is not as it was saved."""

from collections.abc import Mapping
from pathlib import Path

from jaxllm.checkpoints.manifest import Damage


class CheckpointCorrupt(OSError):
    """Checkpoints that must not be used: a file is missing, shorter or has other content."""

    def __init__(self, folder: Path, damages: Mapping[int, Damage], advice: str):
        """damages: what is wrong, by step. advice: what the user can do."""
        found = "; ".join(
            f"checkpoint {step} is corrupt: {damage}" for step, damage in damages.items()
        )
        super().__init__(f"{found}. {advice} ({folder})")
        self.damages = dict(damages)
