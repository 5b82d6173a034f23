"""Checkpoints: Orbax behind one adapter."""

from jaxllm.checkpoints.corrupt import CheckpointCorrupt
from jaxllm.checkpoints.store import CheckpointConfig, CheckpointStore

__all__ = ["CheckpointConfig", "CheckpointCorrupt", "CheckpointStore"]
