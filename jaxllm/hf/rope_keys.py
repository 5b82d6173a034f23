"""Rotary positions in their config.json: the older keys and those of transformers 5, and back."""

import math
from collections.abc import Mapping
from typing import Any

from jaxllm.hf.theirs import Theirs
from jaxllm.models.decoder_config import DecoderConfig
from jaxllm.nn.rope_scaling import Llama3Scaling, LongScaling, RopeScaling, YarnScaling


def read_rope(
    theirs: Theirs,
    *,
    default_theta: float = 10_000.0,
    default_fraction: float = 1.0,
    default_original: int | None = None,
) -> dict[str, Any]:
    """Our rope_theta, rope_fraction and rope_scaling."""
    given = theirs.get("rope_parameters", None)
    old = theirs.get("rope_scaling", None)
    if given and old:
        theirs.refuse("it has both rope_parameters and rope_scaling; leave one of them")
    theta = theirs.given("rope_theta", "rotary_emb_base", default=default_theta)
    fraction = theirs.given("partial_rotary_factor", "rotary_pct", default=default_fraction)
    keys = dict(given or old or {})
    return {
        "rope_theta": keys.pop("rope_theta", theta),
        "rope_fraction": keys.pop("partial_rotary_factor", fraction),
        "rope_scaling": read_scaling(theirs, keys, default_original=default_original),
    }


def read_scaling(
    theirs: Theirs, keys: dict[str, Any], *, default_original: int | None = None
) -> dict[str, Any] | None:
    """Our rope_scaling from what is left of their section; ValueError for an unknown kind.

    default_original: the context before scaling where no key beside the section says it. None is
    that of the section, or the whole one.
    """
    kind = keys.pop("rope_type", keys.pop("type", "default"))
    keys.pop("type", None)
    keys.pop("finetuned", None)  # whether it was, which changes nothing
    length = theirs.size("max_position_embeddings")
    inner = keys.pop("original_max_position_embeddings", None)
    # As in transformers, a family's default comes before the section's own.
    beside = theirs.get("original_max_position_embeddings", default_original)
    original = beside or inner or length
    readers = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _long, "su": _long}
    if kind == "default":
        if keys:
            theirs.refuse(f"rope_type=default with {', '.join(keys)}, which mean nothing to it")
        return None
    if kind not in readers:
        theirs.refuse(f"rope_type={kind!r} is not known here, only {', '.join(readers)}")
    try:
        scaling = readers[kind](keys, original, length)
    except KeyError as missing:
        theirs.refuse(f"rope_type={kind} without {missing}")
        raise
    if keys:
        theirs.refuse(f"rope_type={kind} with {', '.join(keys)}, which mean nothing here")
    return scaling


def _linear(keys: dict[str, Any], original: int, length: int) -> dict[str, Any]:
    return {"type": "linear", "factor": keys.pop("factor")}


def _llama3(keys: dict[str, Any], original: int, length: int) -> dict[str, Any]:
    return {
        "type": "llama3",
        "factor": keys.pop("factor"),
        "low_frequency_factor": keys.pop("low_freq_factor"),
        "high_frequency_factor": keys.pop("high_freq_factor"),
        "original_length": original,
    }


def _yarn(keys: dict[str, Any], original: int, length: int) -> dict[str, Any]:
    factor = keys.pop("factor", None) or length / original
    amplitude = keys.pop("attention_factor", None)
    mscale, mscale_all = keys.pop("mscale", None), keys.pop("mscale_all_dim", None)

    def gain(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if amplitude is None:
        both = mscale and mscale_all
        amplitude = gain(mscale) / gain(mscale_all) if both else gain(1.0)
    return {
        "type": "yarn",
        "factor": factor,
        "original_length": original,
        "beta_fast": keys.pop("beta_fast", None) or 32.0,
        "beta_slow": keys.pop("beta_slow", None) or 1.0,
        "amplitude": amplitude,
        "is_truncated": keys.pop("truncate", True),
        "score_weight": mscale_all or 0.0,
    }


def _long(keys: dict[str, Any], original: int, length: int) -> dict[str, Any]:
    factor = keys.pop("factor", None) or length / original
    amplitude = keys.pop("attention_factor", None)
    if amplitude is None:
        long = factor > 1.0
        amplitude = math.sqrt(1 + math.log(factor) / math.log(original)) if long else 1.0
    return {
        "type": "longrope",
        "short_factors": keys.pop("short_factor"),
        "long_factors": keys.pop("long_factor"),
        "original_length": original,
        "amplitude": amplitude,
    }


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """Their rope_theta and rope_scaling, in the keys that every version reads."""
    return {"rope_theta": config.rope_theta, "rope_scaling": write_scaling(config.rope_scaling)}


def write_scaling(scaling: RopeScaling | None) -> Mapping[str, Any] | None:
    """Their section of a scaling."""
    if scaling is None:
        return None
    if isinstance(scaling, Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    if isinstance(scaling, YarnScaling):
        weights = {"mscale_all_dim": scaling.score_weight} if scaling.score_weight else {}
        return weights | {
            "rope_type": "yarn",
            "factor": scaling.factor,
            "original_max_position_embeddings": scaling.original_length,
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "attention_factor": scaling.amplitude,
            "truncate": scaling.is_truncated,
        }
    if isinstance(scaling, LongScaling):
        return {
            "rope_type": "longrope",
            "short_factor": list(scaling.short_factors),
            "long_factor": list(scaling.long_factors),
            "original_max_position_embeddings": scaling.original_length,
            "attention_factor": scaling.amplitude,
        }
    return {"rope_type": "linear", "factor": scaling.factor}
