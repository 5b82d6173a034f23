"""What a model family is: one table of config keys and one of weights, each read both ways."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from pydantic import ValidationError

from jaxllm.hf.theirs import REQUIRED, Listener, Theirs
from jaxllm.schema import Config

# Names of nonlinearities, theirs -> ours.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "quick_gelu": "gelu_sigmoid",
    "relu": "relu",
    "relu2": "relu_squared",
}


class Field(NamedTuple):
    """A key of our config, dotted, and of theirs, with what theirs is where it is left out.

    values: their values -> ours, where they differ; the first that gives ours is written.
    """

    ours: str
    theirs: str
    default: Any = REQUIRED
    values: Mapping[Any, Any] | None = None


class Row(NamedTuple):
    """A weight of ours and of theirs.

    ours: dotted path. theirs: name, in which {layer} and {expert} stand for numbers along the
    leading dimensions of ours. notation: how the other dimensions lie, see `view`. first_layer:
    the number of the first one.
    """

    ours: str
    theirs: str
    notation: str
    first_layer: int = 0

    @property
    def num_stacked(self) -> int:
        """Leading dimensions of ours that their names count."""
        return ("{layer}" in self.theirs) + ("{expert}" in self.theirs)

    def name(self, numbers: Sequence[int]) -> str:
        """Their name of the part of ours at these indices of the leading dimensions."""
        layer, expert = (*numbers, 0, 0)[:2]
        if "{layer}" not in self.theirs:
            layer, expert = 0, layer
        return self.theirs.format(layer=layer + self.first_layer, expert=expert)


Rows = list[Row]


@dataclass(frozen=True)
class Family:
    """One family of published models.

    model_type: what their config.json calls it. architecture: the class that they open it with.
    heads: our `head` by class, where there are several; a config.json without a class means
    architecture. config_type: the class of our
    config. fields: keys that are translated one by one.
    fixed: ours that are the same in every model. read: further keys of ours from theirs. write:
    further keys of theirs. rows: the table of weights, of which a model has those that its
    options call for. inert: their keys without a meaning for us. ignored: patterns of names of
    tensors that hold nothing that the model computes with. older: how names once ended, and now.
    prefix: what names of tensors begin with, except where a network was saved without its head.
    """

    model_type: str
    architecture: str
    config_type: type[Config]
    fields: tuple[Field, ...]
    rows: Callable[[Any], Rows]
    fixed: Mapping[str, Any]
    read: Callable[[Theirs], Mapping[str, Any]] = lambda theirs: {}
    write: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    inert: frozenset[str] = frozenset()
    ignored: Callable[[Any], tuple[str, ...]] = lambda config: ()
    heads: Mapping[str, str] | None = None
    older: tuple[tuple[str, str], ...] = ()
    prefix: str = ""

    def read_config(self, raw: Mapping[str, Any], *, name: str = "config.json") -> Any:
        """Our config. ValueError for what it cannot express, key by key."""
        theirs = Theirs(raw, name=name)
        try:
            ours = self._read(theirs)
        except (AttributeError, KeyError, OverflowError, TypeError, ZeroDivisionError) as error:
            # A value of a kind that no file of this family has; which, the message may not say.
            raise ValueError(f"{name} has a value of the wrong kind: {error}") from error
        theirs.check_all_read(self.inert)
        try:
            config = self.config_type.model_validate(ours)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or 'model'}: {problem['msg']}"
                for problem in error.errors()
            )
            raise ValueError(f"{name} says what no model can be, in our terms {wrong}") from None
        if getattr(config, "vocab_size", 0) is None:
            theirs.refuse("vocab_size is null; give the rows of the embedding")
        return config

    def _read(self, theirs: Theirs) -> dict[str, Any]:
        theirs.get("model_type", None)
        ours: dict[str, Any] = {}
        for key, value in self.fixed.items():
            put(ours, key, value)
        if self.heads is not None:
            ours["head"] = theirs.head = self._head(theirs)
        else:
            self._check_class(theirs)
        for key, value in (*read_fields(theirs, self.fields).items(), *self.read(theirs).items()):
            put(ours, key, value)
        return ours

    @cached_property
    def known_keys(self) -> frozenset[str]:
        """The keys of a config.json that this family reads, or knows to mean nothing."""
        theirs = Listener()
        theirs.get("architectures", None)
        for field in self.fields:
            theirs.get(field.theirs, None)
        self.read(theirs)
        return theirs.known | self.inert

    def write_config(self, config: Any) -> dict[str, Any]:
        """Their config, whatever they cannot express left out."""
        classes = {head: name for name, head in (self.heads or {}).items()}
        name = classes.get(config.head, self.architecture) if classes else self.architecture
        theirs: dict[str, Any] = {"architectures": [name], "model_type": self.model_type}
        return theirs | write_fields(config, self.fields) | dict(self.write(config))

    def present_names(self, names: Iterable[str]) -> dict[str, str]:
        """What tensors are called today, by what a file calls them.

        Files of networks without a head leave out the prefix that the others have.
        """
        found = {}
        for name in names:
            old, new = next((pair for pair in self.older if name.endswith(pair[0])), ("", ""))
            found[name] = name.removesuffix(old) + new if old else name
        has_prefix = any(name.startswith(self.prefix) for name in found.values())
        if self.prefix and not has_prefix:
            found = {name: self.prefix + today for name, today in found.items()}
        return found

    def _check_class(self, theirs: Theirs) -> None:
        """ValueError for a class with another head; one without any may be a part of ours."""
        named = (theirs.get("architectures", None) or [self.architecture])[0]
        if named != self.architecture and not str(named).endswith("Model"):
            theirs.refuse(f"architectures names {named}; only {self.architecture} is known here")

    def _head(self, theirs: Theirs) -> str:
        assert self.heads is not None
        name = (theirs.get("architectures", None) or [self.architecture])[0]
        if name not in self.heads:
            known = ", ".join(self.heads)
            theirs.refuse(f"architectures names {name}, which is not known here, only {known}")
        return self.heads[name]

    def misfits(self, config: Any) -> list[str]:
        """Our keys, with their values, that this family's config.json could not say."""
        mine = essence(config)
        sections = {field.ours.rpartition(".")[0] for field in self.fields} - {""}
        unequal = [f"{name}=null" for name in sorted(sections) if look(config, name) is None]
        for key, value in self.fixed.items():
            section = key.rpartition(".")[0]
            if key in mine and mine[key] != value and section not in sections:
                unequal.append(f"{key}={mine[key]}")
        if unequal:
            return unequal
        try:
            back = essence(self.read_config(self.write_config(config)))
        except ValueError as error:
            return [str(error)]
        return [
            f"{key}={mine.get(key)}"
            for key in sorted({*mine, *back})
            if mine.get(key) != back.get(key)
        ]


# Of our configs, what says nothing about what a network with given weights computes.
_TRAINING = (
    "attention dropout dtype embed_init_std init_std is_scanned moe.balance_loss moe.bias_rate "
    "moe.z_loss offload output_init remat residual_init"
).split()


# Of our configs, keys that may be null, and what they then stand for.
_EFFECTIVE = {
    "num_kv_heads": "kv_heads",
    "head_dim": "head_size",
    "mlp_dim": "mlp_size",
    "attention_bias": "projection_bias",
    "window_pattern": "windowed_layers",
}


def essence(config: Any) -> dict[str, Any]:
    """What a config of ours says about what the network computes: dotted keys, nothing left out."""
    found = dict(_flat(config.model_dump()))
    found |= {key: getattr(config, name) for key, name in _EFFECTIVE.items() if key in found}
    if found.get("query_scale", 0) is None:
        found["query_scale"] = config.head_size**-0.5
    if found.get("moe.expert_dim", 0) is None:
        found["moe.expert_dim"] = config.mlp_size
    if found.get("moe.top_groups", 0) is None:
        found["moe.top_groups"] = config.moe.num_groups
    for name in type(config).model_fields:
        if hasattr(part := getattr(config, name), "kv_heads"):  # a network inside of this one
            found = {key: value for key, value in found.items() if not key.startswith(f"{name}.")}
            found |= {f"{name}.{key}": value for key, value in essence(part).items()}
    return {key: value for key, value in found.items() if key not in _TRAINING}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_fields(theirs: Theirs, fields: Sequence[Field]) -> dict[str, Any]:
    """Ours, by dotted key. ValueError for a value that ours have no word for."""
    ours = {}
    for field in fields:
        value = theirs.get(field.theirs, field.default)
        if field.values is not None:
            if value not in field.values:
                known = ", ".join(repr(choice) for choice in field.values)
                theirs.refuse(f"{field.theirs}={value!r} is not known here, only {known}")
            value = field.values[value]
        ours[field.ours] = value
    return ours


def write_fields(config: Any, fields: Sequence[Field]) -> dict[str, Any]:
    """Theirs; null for a value that theirs have no word for."""
    theirs = {}
    for field in fields:
        section, dot, key = field.ours.rpartition(".")
        value = look(config, section + dot + _EFFECTIVE.get(key, key))
        if field.values is not None:
            value = next((key for key, ours in field.values.items() if ours == value), None)
        theirs[field.theirs] = value
    return theirs


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b` of nested dicts."""
    *folders, name = dotted.split(".")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value


def look(config: Any, dotted: str) -> Any:
    """The value of `a.b` of a config; None where a section is missing."""
    for name in dotted.split("."):
        config = None if config is None else getattr(config, name)
    return config


def under(prefix: tuple[str, str], rows: Sequence[tuple[str, str, str]], **options: Any) -> Rows:
    """Rows whose names, ours and theirs, begin with two prefixes."""
    ours, theirs = prefix
    return [Row(ours + mine, theirs + other, notation, **options) for mine, other, notation in rows]
