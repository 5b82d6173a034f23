"""What adapter_config.json of PEFT says: the task, the targets, and their ranks."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from jaxllm.nn.adapters import LoraConfig

_TASKS = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "MTModel": "SEQ_2_SEQ_LM",
}


def task(architecture: str) -> str | None:
    """Of a class of networks in transformers."""
    return next((name for end, name in _TASKS.items() if architecture.endswith(end)), None)


def module_of(tensor: str) -> str:
    """The name of the module that has a tensor."""
    return tensor.rpartition(".")[0]


def rank_patterns(ranks: Mapping[str, int], adapter: LoraConfig) -> dict[str, Any]:
    """Rank and alpha: what most layers have, and by name what others have."""

    def alpha(rank: int) -> float:
        return adapter.scale * (rank**0.5 if adapter.is_rank_stabilised else rank)

    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    return {
        "r": usual,
        "lora_alpha": alpha(usual),
        "rank_pattern": others,
        "alpha_pattern": {name: alpha(rank) for name, rank in others.items()},
    }


def target_modules(layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """The layers by the last part of their names, or whole where others share that."""

    def last(module: str) -> str:
        return module.rpartition(".")[2]

    there = Counter(last(module) for module in set(map(module_of, names)))
    mine = Counter(map(last, layers))
    return sorted(
        {last(name) if mine[last(name)] == there[last(name)] else name for name in layers}
    )
