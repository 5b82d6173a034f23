"""What PEFT reads of experts' adapters: its formula makes of them the matrices that we merge.

E experts, I inputs, O outputs, R rank.
"""

import numpy as np
import pytest

from .test_peft import ALPHA, PREFIX, RANK, named, written

CASES = {
    "all": ("qwen3_moe", {"targets": ("*.experts",), "is_rank_stabilised": True}),
    "gate": ("mixtral", {"targets": ("*.experts.gate", "*.experts.down")}),
    "up": ("deepseek_v3_plain", {"targets": ("*.experts.up", "*.query")}),
}
# Our matrices in theirs, in order.
HALVES = {"gate_up_proj": ("gate", "up"), "down_proj": ("down",)}
THEIRS = {
    "mixtral": ("block_sparse_moe", {"gate": "w1", "down": "w2", "up": "w3"}),
    "qwen3_moe": ("mlp", {name: f"{name}_proj" for name in ("gate", "up", "down")}),
}
THEIRS["deepseek_v3_plain"] = THEIRS["qwen3_moe"]


def stacked(name, layer, parameter, tensors):
    """A parameter as transformers makes it of the tensors on disk, (E, O, I)."""
    block, names = THEIRS[name]
    start = f"model.layers.{layer}.{block}.experts."
    count = len({key.split(".")[5] for key in tensors if key.startswith(start)})
    return np.stack(
        [
            np.concatenate(
                [
                    np.float64(tensors[f"{start}{expert}.{names[half]}.weight"])
                    for half in HALVES[parameter]
                ]
            )
            for expert in range(count)
        ]
    )


@pytest.mark.parametrize("case", CASES)
def test_the_factors_make_of_theirs_what_is_merged(case, tmp_path):
    """Of (E, O, I): W + s B A, with A (E R, I) and B (O, R E)."""
    name, options = CASES[case]
    model, params, config, found = written(name, tmp_path, options)
    before, expected = named(model, model.params), named(model, params)
    parameters = [path for path in config["target_parameters"] if ".experts." in path]
    assert parameters
    for path in parameters:
        module, _, parameter = path.rpartition(".")
        if f"{module}.down_proj" in parameters and parameter == "gate_up_proj":
            module = f"{module}.base_layer"  # PEFT wraps the module twice
        rank = config["rank_pattern"].get(path, config["r"])
        alpha = config["alpha_pattern"].get(path, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
        assert np.isclose(scale, ALPHA / (RANK**0.5 if config["use_rslora"] else RANK))
        weight = stacked(name, path.split(".")[2], parameter, before)
        merged = stacked(name, path.split(".")[2], parameter, expected)
        num_experts = len(weight)
        a_ERI = found.pop(f"{PREFIX}{module}.lora_A.weight").reshape(num_experts, rank, -1)
        b_ORE = found.pop(f"{PREFIX}{module}.lora_B.weight").reshape(-1, rank, num_experts)
        result = weight + scale * np.einsum("ore,eri->eoi", b_ORE, a_ERI)
        assert not np.allclose(weight, merged)
        # Float32 roundings of sums of a few numbers of size one.
        np.testing.assert_allclose(merged, result, rtol=0, atol=2e-5)
    assert not [key for key in found if ".experts." in key]
    assert (config["lora_dropout"], config["use_dora"]) == (0.0, False)


def test_modules_that_peft_takes_for_experts_are_named_as_parameters(tmp_path):
    """Feed-forward layers beside the experts, and below them."""
    targets = ("*.mlp.gate", "*.shared.down", "*.attention.out")
    _, _, config, found = written("deepseek_v3_plain", tmp_path, {"targets": targets})
    assert config["target_parameters"] == [
        "model.layers.0.mlp.gate_proj.weight",
        *(f"model.layers.{n}.mlp.shared_experts.down_proj.weight" for n in (1, 2)),
    ]
    assert config["target_modules"] == ["o_proj"]
    for parameter in config["target_parameters"]:
        assert f"{PREFIX}{parameter.removesuffix('weight')}lora_A.weight" in found


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "deepseek_v3_plain",
            {"targets": ("*.mlp.gate",), "has_magnitude": True},
            r"layers\.0\.mlp\.gate_proj: PEFT takes .* export the whole model, without --adapter",
        ),
        (
            "mixtral",
            {"targets": ("*.query",), "also_trained": ("blocks.layers.moe.experts.up.kernel",)},
            r"moe\.experts\.up\.kernel: PEFT saves whole modules, and experts' matrices are none",
        ),
    ],
)
def test_what_peft_has_no_form_for_is_refused(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        written(name, tmp_path, options)
