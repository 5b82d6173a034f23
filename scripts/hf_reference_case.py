"""What one recorded case is, for hf_reference.py."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A model of transformers and how it is asked.

    architecture: the class of transformers.
    task: which batch it gets and which loss is taken, of hf_reference_tasks.TASKS.
    config: the keys of its config; the rest have the library's defaults.
    stds: pattern of tensor names -> spread of their values, instead of the usual.
    prompt_lengths: of the greedy continuations; empty for a model that writes nothing.
    more_tensors, more_config: what checkpoints have on disk and transformers would not write.
    """

    architecture: str
    task: str
    config: dict
    stds: dict[str, float] = field(default_factory=dict)
    prompt_lengths: tuple[int, ...] = (3, 5, 9)
    more_tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)
    more_config: dict = field(default_factory=dict)
