"""What of a block's forward pass is kept for the backward pass, where, and what is recomputed.

Layers name the activations that are worth keeping (`kept`); a policy is a set of names.
"""

from collections.abc import Callable
from typing import Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

Activation = Literal["query", "key", "value", "gate", "up", "attention", "branch"]
RematPolicy = Literal[
    "none", "dots", "full", "attention", "attention_value", "qkv", "qkv_mlp", "matmuls"
]
OffloadPolicy = Literal["none", "qkv", "qkv_mlp"]

_QKV = ("query", "key", "value")
_MLP = ("gate", "up")
# Names kept by each policy. In a gated block of width D with feed-forward 8/3 D they are, in
# units of D numbers a token and layer: attention (the kernel's result, the most time a byte) 1,
# attention_value 2, qkv 3, qkv_mlp 8.3, matmuls 10.3 (with the attention kernel's result and the
# attention branch; nothing but element-wise work is left to recompute).
NAMES: dict[RematPolicy | OffloadPolicy, tuple[str, ...]] = {
    "none": (),
    "full": (),
    "attention": ("attention",),
    "attention_value": ("attention", "value"),
    "qkv": _QKV,
    "qkv_mlp": (*_QKV, *_MLP),
    "matmuls": (*_QKV, *_MLP, "attention", "branch"),
}


def kept(x: jax.Array, name: Activation) -> jax.Array:
    """`x`, known to the policies by this name."""
    assert name in get_args(Activation), name
    return checkpoint_name(x, name)


def check_offload(remat: RematPolicy, offload: OffloadPolicy) -> None:
    """ValueError where a policy keeps everything anyway, so that nothing could be moved."""
    if offload != "none" and remat in ("none", "dots"):
        raise ValueError(
            f"offload={offload} moves named activations to host memory, but remat={remat} keeps "
            "unnamed ones; set remat to full or another policy of names"
        )


def recompute(
    step: Callable, policy: RematPolicy, *, offload: OffloadPolicy = "none", is_looped: bool
) -> Callable:
    """`step`, keeping what the policy says in device memory and what `offload` says on the host."""
    if policy == "none":
        return step
    if policy == "dots":
        chosen = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    else:
        chosen = keep_names(policy, offload)
    # Without a barrier the compiler merges the recomputation with the first computation and keeps
    # its results after all; inside a loop it cannot.
    return jax.checkpoint(step, policy=chosen, prevent_cse=not is_looped)


def keep_names(policy: RematPolicy, offload: OffloadPolicy, *more: str) -> Callable:
    """Keeps what the policy names, what `offload` names on the host, and the names `more`."""
    away = NAMES[offload]
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[*more, *(name for name in NAMES[policy] if name not in away)],
        names_which_can_be_offloaded=list(away),
        offload_src="device",
        offload_dst="pinned_host",
    )
