"""PEFT itself opens what jaxllm writes, in the environment of test_transformers.

`make test-hf` makes the environment and runs these.
"""

import numpy as np
import pytest

from jaxllm.nn.adapters import merged

from .published import published
from .test_peft import CASES, exported
from .test_transformers import PYTHON, script

pytestmark = [
    pytest.mark.hf,
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment with transformers"),
]

# Beside those of test_peft: latent attention, attention beside experts, both halves of a network
# for translation, and images.
MORE = {
    "deepseek_v3": {"targets": ("*.attention",), "has_magnitude": True},
    "mixtral": {"targets": ("*.attention", "*.experts.gate", "*.experts.down")},
    "qwen3_moe": {"targets": ("*.experts",), "is_rank_stabilised": True},
    "deepseek_v3_plain": {"targets": ("*.attention.out", "*.experts", "*.shared", "*.mlp")},
    "gemma2": {"targets": ("*.attention.out", "*.mlp.gate"), "is_rank_stabilised": True},
    "t5": {"targets": ("*.attention", "*.memory_attention.query", "*.mlp.down")},
    "marian": {"targets": ("*.memory_attention",), "has_magnitude": True},
    "vit": {"targets": ("*.attention", "*.mlp"), "has_magnitude": True},
}
ARGUMENTS = {
    "decoder": {},
    "encoder": {name: name for name in ("attention_mask", "token_type_ids")},
    "encoder_decoder": {"decoder_input_ids": "decoder_tokens", "attention_mask": "encoder_mask"},
    "vision": {},
}
FIRST = ("input_ids", "pixel_values")


def logits(model, params, inputs):
    """Of a network's answer to their inputs."""
    first = [inputs[name] for name in FIRST if name in inputs]
    names = ARGUMENTS[model.config.type]
    result = model.apply(
        params, *first, **{ours: inputs[name] for name, ours in names.items() if name in inputs}
    )
    return np.asarray(getattr(result, "logits", result))


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_it_says_the_same_with_the_adapter(name, tmp_path):
    model, network, params = exported(name, tmp_path, MORE.get(name))
    read = {*FIRST, *ARGUMENTS[model.config.type]}
    inputs = {key: x for key, x in published(name).reference.items() if key in read}
    np.savez(tmp_path / "inputs.npz", **inputs)
    code, text = script(
        "hf_adapter.py",
        tmp_path / "base",
        tmp_path / "adapter",
        *("--inputs", tmp_path / "inputs.npz"),
        *("--dump", tmp_path / "outputs.npz"),
    )
    assert code == 0, text
    theirs, alone = np.load(tmp_path / "outputs.npz"), logits(model, model.params, inputs)
    whole = logits(model, merged(network, params), inputs)
    model.module = network
    beside = logits(model, params, inputs)
    assert np.abs(beside - alone).max() > 0.01
    for ours, key in ((beside, "logits"), (whole, "merged_logits")):
        # Float32 with other orders of sums; adapters of this size make logits many times larger.
        limit = published(name).noise("logits") * max(
            1.0, np.abs(beside).max() / np.abs(alone).max()
        )
        assert np.abs(ours - theirs[key]).max() <= limit, key
