"""Checkpoints: Orbax behind one adapter."""

from jaxllm.checkpoints.store import CheckpointConfig, CheckpointStore

__all__ = ["CheckpointConfig", "CheckpointStore"]
