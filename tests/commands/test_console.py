"""What is told of a run before its first step."""

import jax
import pytest

from jaxllm.commands.assembly import assemble
from jaxllm.commands.console import run_summary
from jaxllm.config import parse_config
from jaxllm.parallel.mesh import ParallelConfig

SIZES = {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "mlp_dim": 32}
VISION = {**SIZES, "num_layers": 3, "image_size": 8, "patch_size": 4, "head": "none"}


@pytest.mark.parametrize(
    ("model", "objective", "layers"),
    [
        (SIZES, "causal_lm", "2 layers"),
        (
            {**SIZES, "type": "encoder_decoder", "num_decoder_layers": 1},
            "seq2seq",
            "2 + 1 layers",
        ),
        (
            {"type": "two_towers", "text": {**SIZES, "is_tied": True}, "vision": VISION},
            "image_text",
            "2 + 3 layers",
        ),
    ],
)
def test_of_two_stacks_both_depths_are_told(model, objective, layers):
    raw = {
        "run_dir": "run",
        "model": model,
        "objective": {"type": objective},
        "data": {"sequence_length": 16, "global_batch_size": 8, "datasets": {}},
        "optim": {"type": "adamw"},
        "training": {"steps": 2},
    }
    if objective == "seq2seq":
        source = {"type": "jsonl", "paths": ["none.jsonl"]}
        raw["data"]["datasets"] = {"pairs": {"type": "translations", "source": source}}
    config = parse_config(raw, origin="test")
    layout = ParallelConfig(layout="replicated").build(jax.devices()[:1])
    parts = assemble(config, layout=layout, vocab_size=64)
    assert f", {layers}, vocabulary 64, " in run_summary(config, parts, None).splitlines()[0]
