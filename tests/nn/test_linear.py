import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import fast

from jaxllm.nn.linear import Linear
from jaxllm.nn.param import bind, normal, param_dict, spec_dict

EMBED, HEADS, SIZE = 6, 3, 4
EMBED_DIMS = {"embed": EMBED}
HEAD_DIMS = {"heads": HEADS, "head_dim": SIZE}


def make(inputs, outputs, use_bias=False):
    return Linear(
        jax.random.key(0), inputs=inputs, outputs=outputs, use_bias=use_bias, init=normal(1.0)
    )


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(EMBED_DIMS, HEAD_DIMS), (HEAD_DIMS, EMBED_DIMS)])
def test_sums_over_all_inputs(inputs, outputs, use_bias):
    linear = make(inputs, outputs, use_bias)
    rng = np.random.default_rng(0)
    params = {"kernel": rng.normal(size=(*inputs.values(), *outputs.values()))}
    if use_bias:
        params["bias"] = rng.normal(size=tuple(outputs.values()))
    x = rng.normal(size=(2, 5, *inputs.values()))
    flat = x.reshape(10, -1) @ params["kernel"].reshape(np.prod([*inputs.values()]), -1)
    expected = flat.reshape(2, 5, *outputs.values()) + params.get("bias", 0.0)
    params = jax.tree.map(np.float32, params)
    result = fast(lambda params, x: bind(linear, params)(x))(params, x.astype(np.float32))
    # Twelve products of size one, each rounded by 6e-8.
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5)


def test_declares_inputs_and_outputs():
    linear = make(HEAD_DIMS, EMBED_DIMS, use_bias=True)
    kernel, bias = spec_dict(linear)["kernel"], spec_dict(linear)["bias"]
    assert kernel.axes == ("heads", "head_dim", "embed")
    assert (kernel.input_dims, kernel.output_dims, kernel.fan_in) == ((0, 1), (2,), HEADS * SIZE)
    assert (bias.axes, bias.role) == (("embed",), "bias")


def test_computes_in_the_dtype_of_its_input():
    linear = make(EMBED_DIMS, HEAD_DIMS, use_bias=True)
    assert linear(jnp.ones((2, EMBED), jnp.bfloat16)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(param_dict(linear))} == {jnp.dtype("float32")}
