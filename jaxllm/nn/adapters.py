"""Adapters: what a network learns beside weights that stay, and its weights with that in them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
from flax import nnx
from pydantic import Field, PositiveFloat, PositiveInt

from jaxllm.nn.bottleneck import BottleneckConfig
from jaxllm.nn.expert_matrix import ExpertMatrix
from jaxllm.nn.lora import Lora, modules
from jaxllm.nn.matrix import Matrix
from jaxllm.nn.param import Nested, bind, spec_dict
from jaxllm.nn.parts import matches, matching
from jaxllm.nn.quantised import QuantisedConfig, dequantised
from jaxllm.parallel.layouts import weight_items
from jaxllm.schema import Config


class LoraConfig(Config):
    """Low-rank adapters (LoRA, arXiv:2106.09685), trained beside weights that are not."""

    type: Literal["lora"] = "lora"
    """Low-rank adapters."""
    rank: PositiveInt = 8
    """Width of the product that is added to a weight."""
    alpha: PositiveFloat = 16.0
    """The product counts alpha / rank times."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the inputs that the product does not see, in a step of training."""
    targets: tuple[str, ...] = Field(min_length=1)
    """Linear layers that have one, and matrices of experts, by patterns over their paths, as
    '*.attention.query'."""
    also_trained: tuple[str, ...] = ()
    """Weights of the network itself that are trained too, by patterns over their paths, as a head
    that init_from does not have."""
    is_rank_stabilised: bool = False
    """Whether the product counts alpha / sqrt(rank) times instead (rsLoRA, arXiv:2312.03732)."""
    has_magnitude: bool = False
    """Whether each output has a learned length beside its direction (DoRA, arXiv:2402.09353)."""
    base: QuantisedConfig | None = None
    """How the blocks' matrices are held that are not trained (QLoRA, arXiv:2305.14314);
    null is in float32."""

    @property
    def scale(self) -> float:
        """How often the product counts."""
        return self.alpha / (self.rank**0.5 if self.is_rank_stabilised else self.rank)

    def attach(self, key: jax.Array, model: nnx.Module) -> None:
        """Give the layers of a new network their adapters, in place.

        ValueError for a pattern without a layer, and where the layer cannot have what is asked.
        """
        matrices = dict(modules(model, Matrix))
        chosen = sorted(matching(self.targets, matrices.keys(), key="adapter.targets"))
        self._check({path: matrices[path] for path in chosen})
        for number, path in enumerate(chosen):
            matrices[path].lora = Lora(
                jax.random.fold_in(key, number),
                matrices[path].spec,
                rank=self.rank,
                scale=self.scale,
                rate=self.dropout,
                has_magnitude=self.has_magnitude,
            )
        if self.base is not None:
            quantise_blocks(self.base, model, trained=self.also_trained)

    def _check(self, chosen: Mapping[str, Matrix]) -> None:
        """ValueError where what is asked cannot be of all that was chosen, by path."""
        outside = [path for path, one in chosen.items() if "layers" not in one.spec.axes]
        if self.dropout and outside:
            raise ValueError(
                f"adapter.dropout={self.dropout} reaches only what is inside of the blocks, and "
                f"adapter.targets has {', '.join(outside)}; set adapter.dropout=0 or leave them out"
            )
        experts = [path for path, one in chosen.items() if isinstance(one, ExpertMatrix)]
        asked = [
            name
            for name, is_asked in (
                (f"adapter.dropout={self.dropout}", self.dropout > 0),
                ("adapter.has_magnitude=true", self.has_magnitude),
            )
            if is_asked
        ]
        if experts and asked:
            broad = [one for one in self.targets if any(matches(one, path) for path in experts)]
            raise ValueError(
                f"{' and '.join(asked)}: not for the experts that a router chooses, and "
                f"adapter.targets={broad} has {', '.join(experts)}; leave the option out, or "
                "choose patterns that leave those out"
            )


AdapterConfig = Annotated[LoraConfig | BottleneckConfig, Field(discriminator="type")]

_NAMES = {"lora", "bottleneck"}  # of adapters in the layers that have them


def quantise_blocks(base: QuantisedConfig, model: nnx.Module, *, trained: tuple[str, ...]) -> None:
    """Quantise the weights of a new network's linear layers in its blocks, in place.

    trained: patterns over the paths of those that are left, because they are trained. ValueError
    where they leave nothing to quantise.
    """
    base.check_installed()
    paths = {path for path, _ in weight_items(spec_dict(model)) if not is_adapter(path)}
    kept = matching(trained, paths, key="adapter.also_trained")
    chosen = {
        path: linear
        for path, linear in modules(model, Matrix)
        if "layers" in linear.spec.axes and not is_adapter(path) and f"{path}.kernel" not in kept
    }
    if not chosen:
        raise ValueError(
            f"adapter.base is given ({base.dtype}), but adapter.also_trained matches the weights "
            "of all linear layers in the blocks, and what is trained is not quantised; set "
            "adapter.base=null or leave some out"
        )
    for path, linear in chosen.items():
        linear.quantise(base, path=path)


def is_adapter(path: str) -> bool:
    """Whether a dotted path is that of a weight of an adapter."""
    return not _NAMES.isdisjoint(path.split("."))


def without_adapters(tree: Nested) -> Nested:
    """A nested dict of weights, or of declarations, as the network has them by itself."""
    return {
        name: without_adapters(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if name not in _NAMES
    }


def merged(model: Any, params: Nested) -> Nested:
    """The weights of the network by itself that computes what it does with low-rank adapters."""
    whole = dequantised(without_adapters(params))
    for path, linear in modules(bind(model, params), Matrix):
        if linear.lora is not None:
            *folders, name = path.split(".")
            inner = whole
            for folder in folders:
                inner = inner[folder]
            inner[name] = {**inner[name], "kernel": _merged_kernel(linear)}
    return whole


def _merged_kernel(linear: Matrix) -> jax.Array:
    """Of a layer, or of each in a stack of layers."""

    def of_one(linear: Matrix) -> jax.Array:
        return linear.weight

    merge = of_one
    for _ in linear.spec.batch_dims:
        merge = jax.vmap(merge)
    return merge(linear)
