"""Which family a config.json is of, and which family can express a config of ours."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from jaxllm.hf.base import Family
from jaxllm.hf.block_scales import KEY as SCALES
from jaxllm.hf.theirs import unknown_keys

# In the order in which a model is offered to them for export.
_MODULES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "gpt_neox",
    "gpt2",
    "mixtral",
    "qwen3_moe",
    "deepseek_v3",
    "bert",
    "roberta",
    "vit",
    "clip",
    "t5",
    "marian",
)


@cache
def families() -> dict[str, Family]:
    """Every family by their model_type."""
    found = [import_module(f"jaxllm.hf.families.{name}").FAMILY for name in _MODULES]
    return {family.model_type: family for family in found}


def family_of(raw: Mapping[str, Any], *, name: str) -> Family:
    """The family of a config.json. ValueError for one that is not known here."""
    model_type = raw.get("model_type")
    known = families()
    if not isinstance(model_type, str) or model_type not in known:
        raise ValueError(
            f"{name}: model_type={model_type!r} (architectures: {raw.get('architectures')}) is not "
            f"known here; known are {', '.join(sorted(known))}" + _foreign_keys(raw)
        )
    return known[model_type]


def _foreign_keys(raw: Mapping[str, Any]) -> str:
    """The keys of a config.json that no family reads, for an error; of many the first."""
    read = {key for family in families().values() for key in family.known_keys}
    keys = unknown_keys(raw, read | {SCALES})
    more = [f"and {len(keys) - 20} more"] if keys[20:] else []
    return f"; of its keys no family has {', '.join([*keys[:20], *more])}" if keys else ""


def family_that_expresses(config: Any, *, first: Family | None = None) -> Family:
    """The first family whose config.json says all that a config of ours does about its network.

    first: one that is tried before the others. ValueError with what each cannot express.
    """
    problems = []
    candidates = [family for family in families().values() if family != first]
    for family in [first, *candidates] if first else candidates:
        if family.config_type is not type(config):
            continue
        unequal = family.misfits(config)
        if not unequal:
            return family
        problems.append(f"  {family.model_type}: {', '.join(unequal)}")
    raise ValueError(
        "no published family has this network; each one's config.json cannot say:\n"
        + "\n".join(problems)
    )
