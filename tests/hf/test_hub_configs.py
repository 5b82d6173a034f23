"""The config.json files of well-known models, with all the keys that they have, are read.

tests/golden/hub_configs.json has what the hub's files say, as known in 2025: facts of each model.
"""

import json
from pathlib import Path

import pytest

from jaxllm.hf.registry import families, family_of

CONFIGS = json.loads((Path(__file__).parents[1] / "golden" / "hub_configs.json").read_text())


def test_every_family_is_there():
    assert {raw["model_type"] for raw in CONFIGS.values()} == families().keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_read_and_written(name):
    family = family_of(CONFIGS[name], name=name)
    config = family.read_config(CONFIGS[name], name=name)
    assert family.read_config(family.write_config(config)) == config


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", {"num_layers": 12, "mlp_size": 3072, "max_length": 1024, "is_tied": True}),
        ("Llama-2-7b-hf", {"kv_heads": 32, "rope_scaling": None, "is_tied": False}),
        ("Llama-3.1-8B", {"kv_heads": 8, "head_size": 128, "rope_theta": 500000.0}),
        ("Mistral-7B-v0.1", {"window": 4096, "windowed_layers": (True,) * 32}),
        ("Mistral-7B-v0.3", {"window": None}),
        ("Qwen2-7B", {"window": None, "projection_bias": "qkv"}),
        ("gemma-2-2b", {"query_scale": 256**-0.5, "attention_soft_cap": 50.0}),
        ("pythia-160m", {"rope_fraction": 0.25, "is_parallel": True}),
    ],
)
def test_it_means_what_is_known_of_it(name, expected):
    config = family_of(CONFIGS[name], name=name).read_config(CONFIGS[name], name=name)
    assert {key: getattr(config, key) for key in expected} == expected
