"""RunConfig: the one typed tree that a YAML file fills. Strict loading, overrides, differences."""

import inspect
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from jaxllm.checkpoints import CheckpointConfig
from jaxllm.checkpoints.start import RunStart
from jaxllm.config_errors import alternatives, explain, kind_of
from jaxllm.cross_checks import CROSS_CHECKS
from jaxllm.data import DataConfig, DataSection
from jaxllm.evaluation import EvaluationConfig
from jaxllm.generation import SampleConfig
from jaxllm.hf.start import HfStart
from jaxllm.models import ModelConfig
from jaxllm.nn.adapters import AdapterConfig
from jaxllm.objectives import CausalLm, ObjectiveConfig
from jaxllm.optim import OptimizerConfig
from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.schema import Config
from jaxllm.storage import as_path, is_remote
from jaxllm.training.metrics import MetricsConfig
from jaxllm.training.profile import ProfileConfig
from jaxllm.training.step import TrainingConfig
from jaxllm.xla_flags import FlagValue

_USUAL_NETWORK = "decoder"


class RunConfig(Config):
    """A complete run: what is trained, on what, how, and where it is written."""

    run_dir: str
    """Folder of the run: config, metrics, checkpoints and report; or gs://BUCKET/FOLDER."""
    seed: NonNegativeInt = 0
    """Seed of the initial weights, the order of the data and dropout."""
    init_from: Annotated[HfStart | RunStart, Field(discriminator="type")] | None = None
    """Weights to start from, by type; what model leaves out is as there. Null starts anew."""
    model: ModelConfig
    """The network, by type."""
    adapter: AdapterConfig | None = None
    """What is trained beside the weights of init_from, which then stay as they are; null trains
    the weights themselves."""
    data: DataSection
    """What is trained on, its tokenizer, and the shape of a batch."""
    objective: ObjectiveConfig = CausalLm()
    """What is minimised, by type."""
    optim: OptimizerConfig
    """The optimizer and its schedule, by type."""
    training: TrainingConfig
    """The length of the run and how a step is computed."""
    parallel: ParallelConfig = ParallelConfig()
    """How the run is spread over devices."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """When the state is saved and what is kept."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """When validation sets are scored."""
    samples: SampleConfig = SampleConfig()
    """When text is generated during training, and how."""
    metrics: MetricsConfig = MetricsConfig()
    """Where metrics are written."""
    profile: ProfileConfig = ProfileConfig()
    """A window of steps recorded by the profiler."""
    xla_flags: dict[str, FlagValue | None] = Field(default_factory=dict)
    """Compiler options by name, beside or instead of those for the chip; null takes one out."""
    compilation_cache: str | None = "~/.cache/jaxllm/compiled"
    """Folder of compiled programs, reused by later runs; null compiles anew each time."""
    plan_cache: str | None = "~/.cache/jaxllm/plan"
    """Folder of what `plan` found out, from where it goes on; null compiles anew each time."""

    @field_validator("run_dir")
    @classmethod
    def _run_dir_is_known(cls, run_dir: str) -> str:
        is_remote(run_dir)
        return run_dir

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # dictionaries inside have no hash of their own

    @model_validator(mode="before")
    @classmethod
    def _usual_network(cls, given: Any) -> Any:
        """A network without its `type` is a decoder."""
        if isinstance(given, dict) and isinstance(given.get("model"), dict):
            return {**given, "model": {"type": _USUAL_NETWORK, **given["model"]}}
        return given

    @model_validator(mode="after")
    def _sections_fit(self) -> "RunConfig":
        problems = list(_misfits(dict(self)))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def _misfits(sections: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit together, of the sections that there are."""
    for check in CROSS_CHECKS:
        names = inspect.signature(check).parameters
        if names.keys() <= sections.keys():
            yield from check(**{name: sections[name] for name in names})


def _valid_sections(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The values under those top-level keys that are valid by themselves, defaults included."""
    found: dict[str, Any] = {}
    for name, field in RunConfig.model_fields.items():
        if name in raw:
            kind: Any = Annotated[field.annotation, field]
            with suppress(ValidationError):
                found[name] = TypeAdapter(kind).validate_python(raw[name])
        elif not field.is_required():
            found[name] = field.get_default(call_default_factory=True)
    return found


class _UniqueKeyLoader(yaml.SafeLoader):
    """Plain YAML (no tags that construct objects) that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # refused below
            if key in seen:
                raise ValueError(
                    f"line {key_node.start_mark.line + 1}: the key {key!r} is given twice"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of a YAML file with `a.b=c` overrides set before validation.

    ValueError that lists every problem with its path.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: a config is a mapping of keys, this is {type(raw).__name__}")
    for override in overrides:
        apply_override(raw, override)
    return parse_config(_with_model(raw, origin=str(path)), origin=str(path))


def _with_model(raw: dict[str, Any], *, origin: str) -> dict[str, Any]:
    """What the model section leaves out is as in the weights that training starts from."""
    kind: Any = RunConfig.model_fields["init_from"].annotation
    field: Any = Annotated[kind, RunConfig.model_fields["init_from"]]
    try:
        start = TypeAdapter(field).validate_python(raw.get("init_from"))
    except ValidationError:
        return raw  # told with everything else that is wrong
    given = raw.get("model") or {}
    # A run's own config has every key, and needs no look at what it once started from.
    if start is None or not isinstance(given, dict) or set(given) >= set(_fields_of(given)):
        return raw
    try:
        return {**raw, "model": _merged(_model_of(start), given)}
    except ValueError as error:
        # A run that has its own weights by now goes on without the folder that it started from.
        saved = as_path(str(raw.get("run_dir"))).expanduser() / "config.yaml"
        if saved.is_file():
            own = yaml.safe_load(saved.read_text(encoding="utf-8"))["model"]
            return {**raw, "model": _merged(own, given)}
        raise ValueError(f"{origin}: init_from: {error}") from None


def _model_of(start: HfStart | RunStart) -> dict[str, Any]:
    """The model section of what training starts from, with the size of its vocabulary."""
    model = start.model()
    if isinstance(start, HfStart) or model.get("vocab_size", 0) is not None:
        return model
    # Another objective may use fewer ids; the rows of the weights stay as many.
    count = start.num_ids()
    kind: Any = TypeAdapter(ModelConfig).validate_python(model)
    return model if count is None else {**model, "vocab_size": kind.padded_vocab_size(count)}


def _fields_of(model: Mapping[str, Any]) -> Iterable[str]:
    """The keys of a network of the kind that a section names."""
    for kind in alternatives(RunConfig.model_fields["model"].annotation):
        if kind_of(kind) == model.get("type", _USUAL_NETWORK):
            return kind.model_fields
    return ("type",)  # no kind that there is, as is told with everything else


def _replaced(there: Any, value: Any) -> Mapping[str, Any]:
    """A section with what is given; of another kind nothing is left of what was there."""
    kind = there.get("type")
    return _merged(there, value) if value.get("type", kind) == kind else value


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        there = merged.get(key)
        are_sections = isinstance(value, Mapping) and isinstance(there, Mapping)
        merged[key] = _replaced(there, value) if are_sections else value
    return merged


def parse_config(raw: Mapping[str, Any], *, origin: str) -> RunConfig:
    """Validate a nested dict; ValueError lists every problem and names `origin`."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = explain(error, RunConfig)
        if any(problem["loc"] for problem in error.errors()):  # then sections were not compared
            problems += _misfits(_valid_sections(raw))
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ValueError(
            f"{origin}: {count} in the config\n" + "\n".join(f"  {p}" for p in problems)
        ) from None


def with_data(config: RunConfig, data: DataConfig) -> RunConfig:
    """The config with what the data told, once it was read; ValueError where that does not fit."""
    if data == config.data:
        return config
    raw = {**config.model_dump(mode="json"), "data": data.model_dump(mode="json")}
    return parse_config(raw, origin="with what the data tells")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set `a.b=c` in a nested dict; c is read as YAML."""
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ValueError(
            f"override {override!r}: write key.path=value, for example training.steps=100"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not YAML: {error}") from error
    inner = raw
    for depth, key in enumerate(keys[:-1], start=1):
        if inner.get(key) is None:
            inner[key] = {}
        inner = inner[key]
        if not isinstance(inner, dict):
            raise ValueError(
                f"override {override!r}: {'.'.join(keys[:depth])} is {inner!r}, it has no keys"
            )
    inner[keys[-1]] = value


def dump_yaml(config: RunConfig) -> str:
    """The whole resolved config as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def non_defaults(config: Config, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, where it differs from the default; kinds chosen by `type` among them."""
    shown: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value == field.get_default(call_default_factory=True):
            continue
        inside = value if isinstance(value, dict) else {}
        children = {f"{name}.{k}": v for k, v in inside.items() if isinstance(v, Config)}
        for key, child in children.items():
            shown.update(_kind(child, f"{prefix}{key}."), **non_defaults(child, f"{prefix}{key}."))
        if isinstance(value, Config):
            if field.annotation is not type(value):
                shown.update(_kind(value, f"{prefix}{name}."))
            shown.update(non_defaults(value, f"{prefix}{name}."))
        elif not children and name != "type":
            plain = config.model_dump(mode="json", include={name})
            shown[f"{prefix}{name}"] = plain[name]
    return shown


def _kind(config: Config, prefix: str) -> dict[str, Any]:
    kind = getattr(config, "type", None)
    return {} if kind in (None, _USUAL_NETWORK) else {f"{prefix}type": kind}
