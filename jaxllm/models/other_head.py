"""Networks that differ by their heads: which weights of one are another's too."""

from collections.abc import Collection
from typing import Any

from jaxllm.models.encoder_config import EncoderConfig
from jaxllm.models.vision_config import VisionConfig

Path = tuple[str, ...]
_LABEL_HEAD = "label_head"
_HEADS = (_LABEL_HEAD, "pooler", "vocabulary_head")
"""The parts of an encoder that not every head has."""


def has_same_head(ours: Any, theirs: Any) -> bool:
    """Whether two networks' heads mean the same, as far as their configs say."""
    kinds = EncoderConfig | VisionConfig
    if not isinstance(ours, kinds) or not isinstance(theirs, kinds):
        return True  # they have none to choose
    return (ours.head, ours.num_labels) == (theirs.head, theirs.num_labels)


def is_of_head(path: Path) -> bool:
    """Whether a weight is of a part that other heads lack."""
    return path[0] in _HEADS


def shared_paths(ours: Collection[Path], theirs: Collection[Path]) -> set[Path]:
    """Of a network's weights, those that one with another head should have too.

    A head of other classes is another head, also where it has the same size.
    """
    return {
        path for path in ours if path[0] != _LABEL_HEAD and (path in theirs or not is_of_head(path))
    }
