"""HBM that a candidate takes, by arithmetic: a sure lower bound, and an estimate.

Two moments are the fullest. Where the loss is computed there are the logits and their gradient;
in the backward loop there are the gradients of all layers and one layer's recomputed activations.
Beside either lie the state and what the forward loop kept.
"""

from dataclasses import dataclass

from jaxllm.aot.search_share import Share, head_tokens, share_of, tokens_at_once
from jaxllm.aot.search_space import Candidate
from jaxllm.aot.search_workload import Workload
from jaxllm.nn.remat import NAMES

_BF16 = 2
# How many of each the backward pass of a layer holds; from compiled programs of 7B parameters.
_LIVE_LAYERS = 2.0  # the gathered one in work, and the next
_LIVE_HIDDEN = 5.0
_LIVE_HEADS = 6.0
_LIVE_EMBED = 6.0
_LIVE_CHOICES = 4.0  # rows of a mixture, each as wide as the residual stream
_LIVE_LOGITS = 2.0  # with their gradient
_STAGED = 0.04  # of what goes to the host, at once on its way
# What may be wrong with the parts of the lower bound: fusion may save a little of each.
_SURE = 0.9


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device. lower: surely taken. state: parameters and optimizer, exact.

    work: an estimate of all else at the fullest moment.
    """

    lower: float
    state: float
    work: float

    @property
    def expected(self) -> float:
        """The estimated peak."""
        return self.state + self.work


def estimate_memory(workload: Workload, candidate: Candidate) -> MemoryEstimate:
    """The peak of a candidate whose sizes divide."""
    share, model = share_of(workload, candidate.parallel), workload.model
    is_away = share.layout.is_optimizer_offloaded
    state = share.parameter_bytes + (0 if is_away else share.optimizer_bytes)
    kept, away = kept_bytes(workload, share, candidate)
    parts = candidate.num_microbatches
    head = share.head_size * _BF16
    tokens = head_tokens(share) / (parts * workload.num_chunks)  # whose logits there are at once
    logits = tokens * workload.vocab_size / share.layout.degree("act_vocab")
    loss = _LIVE_LOGITS * logits * _BF16 + head
    layer = tokens_at_once(share, candidate) * _live_width(workload, share)
    layer += _LIVE_LAYERS * share.layer_size
    backward = share.gradient_bytes + head + layer * _BF16
    work = kept + _STAGED * away + max(loss, backward)
    if parts > 1:
        work += share.gradient_bytes  # those summed so far
    if is_away:
        work = max(work, share.gradient_bytes + share.optimizer_bytes)
    sure = state + kept + (share.block_gradient_bytes if model.is_scanned else 0)
    return MemoryEstimate(lower=_SURE * sure, state=state, work=work)


def kept_bytes(workload: Workload, share: Share, candidate: Candidate) -> tuple[float, float]:
    """Bytes that the forward pass keeps for the backward pass on a device, and in host memory."""
    widths, width = share.widths, share.residual_width
    away = sum(widths[name] for name in widths if name in NAMES[candidate.offload])
    if candidate.remat in ("none", "dots"):
        width += sum(widths.values()) - widths["attention"] + share.residual_width
        if candidate.remat == "dots" and workload.model.moe is not None:
            width -= widths["gate"] + widths["up"]  # grouped products are not among the `dots`
        if candidate.remat == "none":
            # Inputs of products and of norms, and what is between the hidden products.
            width += widths["attention"] + 2 * widths["up"] + 2 * workload.model.embed_dim
    else:
        names = set(NAMES[candidate.remat]) - set(NAMES[candidate.offload])
        width += sum(widths[name] for name in widths if name in names)
    tokens = share.tokens / candidate.num_microbatches * share.bubble
    scale = tokens * share.num_layers * workload.model.compute_dtype("tpu").itemsize
    return scale * width, scale * away


def _live_width(workload: Workload, share: Share) -> float:
    """Numbers a token that one layer's backward pass holds."""
    embed, moe = workload.model.embed_dim, workload.model.moe
    live = _LIVE_HIDDEN * share.widths["up"] + _LIVE_HEADS * share.widths["query"]
    live += _LIVE_EMBED * embed
    return live if moe is None else live + _LIVE_CHOICES * moe.top_k * embed
