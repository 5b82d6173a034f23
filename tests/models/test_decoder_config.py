import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pydantic import ValidationError
from tiny import VOCAB, fast

from jaxllm.nn.param import bind, param_dict, spec_dict
from jaxllm.objectives import CausalLm
from jaxllm.parallel.layouts import weight_items

WIDE = {"num_layers": 4, "embed_dim": 64, "mlp_dim": 128}


def weights(**changes):
    config = tiny.config(**(WIDE | changes))
    model = fast(lambda key: config.build(key, VOCAB))(jax.random.key(0))
    return jax.tree.map(np.asarray, param_dict(model))


def check_std(values, expected):
    """Of n draws the deviation is off by 1 / sqrt(2 n); five of those."""
    np.testing.assert_allclose(values.std(), expected, rtol=5 / np.sqrt(2 * values.size), atol=0)


def test_hidden_matrices_start_by_their_inputs():
    params = weights(embed_init_std=0.5)
    block = params["blocks"]["layers"]
    check_std(params["embed"]["table"], 0.5)
    check_std(params["out"]["kernel"], 64**-0.5)
    check_std(block["attention"]["query"]["kernel"], 64**-0.5)
    check_std(block["attention"]["out"]["kernel"], 64**-0.5)  # 4 heads of 16
    check_std(block["mlp"]["down"]["kernel"], 128**-0.5)


def test_gpt2_starts_with_one_deviation_scaled_by_depth():
    params = weights(init_std=0.02, residual_init="depth_scaled")
    block = params["blocks"]["layers"]
    check_std(params["out"]["kernel"], 0.02)
    check_std(block["attention"]["value"]["kernel"], 0.02)
    check_std(block["mlp"]["up"]["kernel"], 0.02)
    for branch in (block["attention"]["out"], block["mlp"]["down"]):
        check_std(branch["kernel"], 0.02 / np.sqrt(2 * 4))


def test_depth_scaling_without_a_fixed_deviation():
    block = weights(residual_init="depth_scaled")["blocks"]["layers"]
    check_std(block["mlp"]["down"]["kernel"], 128**-0.5 / np.sqrt(2 * 4))
    check_std(block["mlp"]["up"]["kernel"], 64**-0.5)


def test_silent_starts():
    params = weights(residual_init="zero", output_init="zero")
    block = params["blocks"]["layers"]
    for silent in (params["out"], block["attention"]["out"], block["mlp"]["down"]):
        assert not silent["kernel"].any()
    assert block["mlp"]["up"]["kernel"].any()


def test_layers_and_matrices_start_unequal():
    block = weights()["blocks"]["layers"]
    matrices = [
        block[part][name]["kernel"][layer].ravel()[:64]
        for layer in range(4)
        for part, name in [
            ("attention", "query"),
            ("attention", "key"),
            ("attention", "value"),
            ("attention", "out"),
            ("mlp", "up"),
            ("mlp", "gate"),
            ("mlp", "down"),
        ]
    ]
    matrices = [matrix / np.abs(matrix).max() for matrix in matrices]
    assert len({matrix.tobytes() for matrix in matrices}) == len(matrices)


def matmul_params(model):
    """Weights that every token is multiplied by."""
    return sum(
        int(np.prod(spec.shape))
        for path, spec in weight_items(spec_dict(model))
        if spec.role in ("hidden", "output") or (model.out is None and path == "embed.table")
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_flops_are_those_that_xla_counts(family):
    """XLA adds what the convention leaves out: norms, activations, softmax, the loss's sums.

    Against 6 x 256 a weight column or 12 x 64 an attention score they are about 1% here.
    Unrolled, because XLA counts the body of a loop once.
    """
    sizes = {"num_layers": 2, "embed_dim": 256, "mlp_dim": 1024, "is_scanned": False}
    rows, length = 2, 256
    make = {"llama": tiny.config, "gpt2": tiny.gpt2}[family]
    config = make(**sizes, max_length=length)
    model = tiny.abstract(config)
    batch = jax.tree.map(
        lambda field: jax.ShapeDtypeStruct(field.shape, field.dtype),
        tiny.batch(rows=rows, length=length),
    )

    def loss(params, batch):
        return CausalLm()(bind(model, params), batch).loss

    counted = jax.jit(jax.value_and_grad(loss)).lower(param_dict(model), batch).cost_analysis()
    expected = rows * length * config.flops_per_token(matmul_params(model), length)
    assert 1.0 < counted["flops"] / expected < 1.03


def test_vocabulary_is_padded_to_whole_tiles():
    config = tiny.config()
    assert [config.padded_vocab_size(size) for size in (1, 64, 65, 50257)] == [64, 64, 128, 50304]
    assert tiny.config(vocab_size=100).padded_vocab_size(100) == 100
    with pytest.raises(ValueError, match=r"model\.vocab_size is 100, .* 101 ids; .* raise it"):
        tiny.config(vocab_size=100).padded_vocab_size(101)


def test_length_is_checked_against_learned_positions():
    tiny.config().check_length(10**6, key="data.sequence_length")
    learned = tiny.config(positions="learned", max_length=32)
    learned.check_length(32, key="data.sequence_length")
    with pytest.raises(ValueError, match=r"data\.sequence_length is 33.*32 learned.*max_length"):
        learned.check_length(33, key="data.sequence_length")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads=3 does not divide num_heads=4"),
        ({"embed_dim": 30}, "num_heads=4 does not divide embed_dim=30"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_layers": 0}, "num_layers"),
        ({"norm_epsilon": 0.0}, "norm_epsilon"),
        ({"activation": "swish"}, "activation"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValidationError, match=message):
        tiny.config(**changes)


def test_odd_heads_are_fine_where_nothing_rotates():
    tiny.config(head_dim=7, positions="learned")


def test_nothing_is_computed_to_know_the_shapes():
    model = tiny.abstract(tiny.config(embed_dim=4096, num_layers=96))
    assert isinstance(model.embed.table.get_value(), jax.ShapeDtypeStruct)
    assert model.embed.table.get_value().dtype == jnp.float32
