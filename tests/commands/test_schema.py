import itertools
import json
import re

import pytest
import yaml

from jaxllm.commands.schema import describe_fields, json_schema, list_configs
from jaxllm.config import RunConfig
from jaxllm.config_errors import kind_of, sections
from jaxllm.config_files import shipped_configs

SCHEMA = json.loads(json_schema())
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def problems(value, schema, path=""):
    """What an editor with this schema would underline; the part of JSON Schema that is used."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")] | {
            key: inner for key, inner in schema.items() if key != "$ref"
        }
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            found = [problems(value, member, path) for member in schema[choice]]
            return min(found, key=len)
    if "type" in schema:
        is_right = isinstance(value, TYPES[schema["type"]])
        if not is_right or (isinstance(value, bool) and schema["type"] != "boolean"):
            return [f"{path}: {value!r} is no {schema['type']}"]
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return [f"{path}: {value!r} is not allowed"]
    found = []
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, inner in value.items():
            where = f"{path}.{key}"
            if key in known or isinstance(rest, dict):
                found += problems(inner, known.get(key, rest), where)
            elif rest is False:
                found.append(f"{where}: unknown")
        found += [
            f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value
        ]
    if isinstance(value, list):
        for index, inner in enumerate(value):
            found += problems(inner, schema.get("items", {}), f"{path}.{index}")
    return found


@pytest.mark.parametrize("path", shipped_configs().values(), ids=lambda path: path.stem)
def test_an_editor_accepts_the_shipped_configs(path):
    assert problems(yaml.safe_load(path.read_text()), SCHEMA) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"modell": {}}, ".modell: unknown"),
        ({"run_dir": 3}, ".run_dir: 3 is no string"),
        ({"model": {"norm": "batch"}}, ".model.norm: 'batch' is not allowed"),
        ({"training": {}}, ".training.steps: missing"),
        ({"optim": {"type": "muon", "beta3": 1}}, ".optim.beta3: unknown"),
    ],
)
def test_an_editor_underlines_what_is_wrong(change, problem):
    raw = yaml.safe_load(shipped_configs()["demo"].read_text())
    assert problem in problems(raw | change, SCHEMA)


def test_the_schema_is_of_the_config_and_describes_every_key():
    assert SCHEMA["$schema"].startswith("https://json-schema.org/")
    assert SCHEMA["properties"].keys() == RunConfig.model_fields.keys()
    for name, definition in SCHEMA["$defs"].items():
        for key, field in definition.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"


def keys_of_the_help():
    """Key -> the rest of its line and the paragraph below."""
    paragraphs = re.split(r"^  (?=\S)", describe_fields(), flags=re.MULTILINE)[1:]
    return {paragraph.split()[0]: " ".join(paragraph.split()[1:]) for paragraph in paragraphs}


def test_every_key_has_a_default_and_a_meaning():
    lines = describe_fields().splitlines()
    keys = [line for line in lines if line.startswith("  ") and not line.startswith("      ")]
    assert len(keys) == len(set(keys)) > 80
    assert all(" = " in line or line.endswith(" (required)") for line in keys)
    for line, after in itertools.pairwise(lines):
        if line in keys:
            assert after.startswith("      "), line


def test_every_field_and_every_kind_is_in_the_help():
    keys = keys_of_the_help()
    # Without the brackets, and with what a key stands below.
    plain = {re.sub(r"\[.*?\]", "", key) for key in keys}
    paths = {".".join(key.split(".")[:end]) for key in plain for end in range(1, 9)}
    pending = [("", RunConfig)]
    while pending:
        prefix, cls = pending.pop()
        for name, field in cls.model_fields.items():
            assert f"{prefix}{name}" in paths
            found = list(sections(field.annotation, f"{prefix}{name}"))
            if len(found) > 1:
                kinds = ", ".join(kind_of(kind) for _, kind in found)
                text = next(
                    text
                    for key, text in keys.items()
                    if re.sub(r"\[.*?\]", "", key) == f"{found[0][0]}.type"
                )
                assert f"One of {kinds}." in text
            pending += [(f"{path}.", kind) for path, kind in found]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("optim.type", "(required) The optimizer and its schedule, by type. One of sgd, adagrad"),
        ("optim.schedule.type", '= "cosine" How the learning rate moves over the run. One of'),
        ("data.tokenizer", "= null Tokenizer of the texts"),
        ("data.tokenizer.type", "(required) One of sentencepiece, byte, hf."),
        ("data.datasets", "= {} Datasets by name"),
        ("model[decoder].moe", "= null"),
        ("training.ema", "= null"),
        ("metrics.loggers", "= []"),
        ("metrics.loggers.N.type", "(required) One of wandb, trackio."),
        ("optim[muon].ns_steps", "= 5"),
    ],
)
def test_kinds_and_sections_that_may_be_left_out_have_a_line(key, text):
    assert keys_of_the_help()[key].startswith(text)


def test_what_several_kinds_have_alike_is_in_the_help_once():
    keys = keys_of_the_help()
    assert [key for key in keys if key.endswith(".warmup_steps")] == ["optim.schedule.warmup_steps"]
    assert [key for key in keys if key.endswith("clip_norm")] == ["optim.clip_norm"]
    assert {key for key in keys if key.endswith(".mu_dtype")} == {
        "optim[adam,adamw,lion].mu_dtype",
        "optim[muon].mu_dtype",
    }


def test_the_help_begins_with_how_keys_are_written():
    notation = " ".join(describe_fields().split("\n\n")[0].split())
    assert "optim[muon].ns_steps is the key optim.ns_steps where optim.type is muon" in notation


def test_shipped_configs_are_listed_with_their_commands():
    lines = list_configs().splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_configs())
    for line in lines:
        name, command = line.split(maxsplit=1)
        assert command == f"jaxllm train configs/{name}.yaml"
