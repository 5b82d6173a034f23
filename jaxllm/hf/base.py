"""What a model family is: one table of config keys and one of weights, each read both ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

REQUIRED: Any = object()

# Keys of any config.json that say nothing about what the network computes.
INERT = frozenset(
    [
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_pdrop",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "classifier_dropout_prob",
        "decoder_start_token_id",
        "dropout",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "id2label",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "keys_to_ignore_at_inference",
        "label2id",
        "layerdrop",
        "max_length",
        "model_type",
        "num_beams",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "resid_pdrop",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "sep_token_id",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "unsloth_version",
        "use_cache",
    ]
)

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


class Theirs:
    """A config.json, which remembers what was read of it, so that nothing is ignored."""

    def __init__(self, raw: Mapping[str, Any], *, name: str):
        """name: what errors call it."""
        self._raw = raw
        self._name = name
        self._known: set[str] = set()

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key; ValueError if it is missing and has no default."""
        self._known.add(key)
        if key not in self._raw and default is REQUIRED:
            raise ValueError(f"{self._name} has no {key!r}, which its model_type needs")
        return self._raw.get(key, default)

    def given(self, *keys: str, default: Any = REQUIRED) -> Any:
        """The value of the first of several spellings that is there."""
        self._known.update(keys)
        present = [key for key in keys if key in self._raw]
        return self.get(present[0] if present else keys[0], default)

    def expect(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """ValueError unless the value is one that the network can express."""
        self._known.add(key)
        value = self._raw.get(key, allowed[0] if default is REQUIRED else default)
        if value not in allowed:
            choices = " or ".join(repr(choice) for choice in allowed)
            raise ValueError(
                f"{self._name}: {key}={value!r} cannot be expressed here, only {choices}"
            )

    def refuse(self, why: str) -> None:
        """ValueError with what cannot be expressed."""
        raise ValueError(f"{self._name}: {why}")

    def check_all_read(self, inert: frozenset[str]) -> None:
        """ValueError that names every key that nothing has read."""
        unknown = sorted(set(self._raw) - self._known - inert - INERT)
        if unknown:
            raise ValueError(
                f"{self._name} has keys that mean nothing here: "
                + ", ".join(f"{key}={self._raw[key]!r}" for key in unknown)
                + "; remove those that do not change what the network computes"
            )


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
    build: our config from its keys. fields: keys that are translated one by one. fixed: ours that
    are the same in every model. read: further keys of ours from theirs. write: further keys of
    theirs. rows: the table of weights, of which a model has those that its options call for.
    inert: their keys without a meaning for us. ignored: patterns of names of tensors that
    hold nothing that the model computes with.
    """

    model_type: str
    architecture: str
    build: Callable[[Mapping[str, Any]], Any]
    fields: tuple[Field, ...]
    rows: Callable[[Any], Rows]
    fixed: Mapping[str, Any]
    read: Callable[[Theirs], Mapping[str, Any]] = lambda theirs: {}
    write: Callable[[Any], Mapping[str, Any]] = lambda config: {}
    inert: frozenset[str] = frozenset()
    ignored: Callable[[Any], tuple[str, ...]] = lambda config: ()

    def read_config(self, raw: Mapping[str, Any], *, name: str = "config.json") -> Any:
        """Our config. ValueError for what it cannot express, key by key."""
        theirs = Theirs(raw, name=name)
        theirs.get("model_type", None)
        ours: dict[str, Any] = {}
        for key, value in self.fixed.items():
            put(ours, key, value)
        for field in self.fields:
            value = theirs.get(field.theirs, field.default)
            if field.values is not None:
                if value not in field.values:
                    known = ", ".join(repr(choice) for choice in field.values)
                    theirs.refuse(f"{field.theirs}={value!r} is not known here, only {known}")
                value = field.values[value]
            put(ours, field.ours, value)
        for key, value in self.read(theirs).items():
            put(ours, key, value)
        theirs.check_all_read(self.inert)
        return self.build(ours)

    def write_config(self, config: Any) -> dict[str, Any]:
        """Their config, whatever they cannot express left out."""
        theirs: dict[str, Any] = {
            "architectures": [self.architecture],
            "model_type": self.model_type,
        }
        for field in self.fields:
            value = look(config, field.ours)
            if field.values is not None:
                value = next((key for key, ours in field.values.items() if ours == value), None)
            theirs[field.theirs] = value
        return theirs | dict(self.write(config))


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
