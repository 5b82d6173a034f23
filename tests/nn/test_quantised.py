"""Weights as small integers, and networks that have some."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.models import Encoder
from jaxllm.nn.adapters import LoraConfig, merged, without_adapters
from jaxllm.nn.param import bind, num_bytes, spec_dict
from jaxllm.nn.quantised import (
    QuantisedConfig,
    dequantise,
    dequantised,
    product,
    quantise,
    unquantised,
    with_placed_scales,
)
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.mesh import ParallelConfig

OUT = WeightSpec((3, 4, 8, 32), ("layers", "heads", "head_dim", "embed"), "hidden", (1, 2), (3,))
UP = WeightSpec((32, 48), ("embed", "mlp"), "hidden", (0,), (1,))


@pytest.mark.parametrize(
    ("spec", "tile", "shape", "axes"),
    [
        (UP, None, (1, 48), ("tile", "mlp")),
        (UP, 32, (1, 48), ("tile", "mlp")),
        (UP, 16, (2, 48), ("embed", "mlp")),
        (UP, 1, (32, 48), ("embed", "mlp")),
        (OUT, None, (3, 1, 1, 32), ("layers", "tile", "tile", "embed")),
        (OUT, 16, (3, 2, 1, 32), ("layers", "heads", "tile", "embed")),
        (OUT, 8, (3, 4, 1, 32), ("layers", "heads", "tile", "embed")),
        (OUT, 4, (3, 4, 2, 32), ("layers", "heads", "head_dim", "embed")),
    ],
)
def test_a_tile_is_of_neighbouring_inputs(spec, tile, shape, axes):
    scale = QuantisedConfig(tile=tile).scale_spec(spec, path="kernel")
    assert (scale.shape, scale.axes) == (shape, axes)


@pytest.mark.parametrize(
    ("dtype", "inputs", "tiles"),
    [
        ("int4", (576,), (9,)),
        ("int4", (48,), (1,)),
        ("int4", (150,), (3,)),  # of 50
        ("int4", (9, 64), (9, 1)),
        ("int4", (4, 48), (4, 1)),
        ("int4", (3, 128), (3, 2)),
        ("int4", (6, 32), (3, 1)),
        ("int8", (576,), (1,)),
        ("int8", (9, 64), (1, 1)),
    ],
)
def test_four_bits_share_a_scale_among_few(dtype, inputs, tiles):
    """Of 64, or the largest number below that divides the inputs."""
    names = ("heads", "head_dim") if len(inputs) > 1 else ("embed",)
    dims = tuple(range(len(inputs)))
    spec = WeightSpec((*inputs, 8), (*names, "mlp"), "hidden", dims, (len(inputs),))
    assert QuantisedConfig(dtype=dtype).scale_spec(spec, path="kernel").shape == (*tiles, 8)


@pytest.mark.parametrize(("spec", "tile"), [(UP, 12), (UP, 64), (OUT, 12), (OUT, 24), (OUT, 64)])
def test_a_tile_that_does_not_divide_is_refused(spec, tile):
    with pytest.raises(ValueError, match=rf"adapter\.base\.tile={tile} .* inputs of a\.kernel"):
        QuantisedConfig(tile=tile).scale_spec(spec, path="a.kernel")


def test_a_scale_lies_where_its_tiles_do_or_everywhere():
    layout = ParallelConfig(layout="fsdp", fsdp=4, tensor=2).build()
    scales = [
        QuantisedConfig(tile=tile).scale_spec(spec, path="kernel")
        for spec, tile in ((UP, 8), (UP, 16), (OUT, 4), (OUT, 32))
    ]
    specs = {"layer": {str(n): {"integers": UP, "scale": spec} for n, spec in enumerate(scales)}}
    placed = with_placed_scales(layout, specs)["layer"]
    assert [entry["scale"].axes for entry in placed.values()] == [
        ("embed", "mlp"),
        ("tile", "mlp"),  # two tiles on four devices
        ("layers", "heads", "head_dim", "embed"),
        ("layers", "tile", "tile", "embed"),
    ]
    assert unquantised(specs) == {"layer": {str(n): UP for n in range(4)}}


@pytest.mark.parametrize(("dtype", "largest"), [("int8", 127), ("int4", 7)])
def test_no_number_is_rounded_by_more_than_half_a_step(dtype, largest):
    weight = np.random.default_rng(0).normal(size=(3, 4, 8, 32)).astype(np.float32)
    weight[0, :, :, 0] = 0  # a tile of nothing
    weight[1, 0, 0, 1] = -1000  # and one with an outlier
    integers, scale = jax.jit(lambda w: quantise(w, shape=(3, 2, 1, 32), dtype=dtype))(weight)
    assert (str(integers.dtype), scale.dtype) == (dtype, jnp.float32)
    assert np.abs(np.asarray(integers, np.int32)).max() == largest
    step = np.repeat(np.asarray(scale), 2, axis=1)
    error = np.abs(np.asarray(dequantise(integers, scale), np.float64) - weight)
    # The quotient, and the product after it, are rounded by 6e-8 of up to 127 steps.
    assert (error <= step * (0.5 + 2e-5)).all()
    assert (error[0, :, :, 0] == 0).all()
    assert num_bytes(integers.shape, integers.dtype) == integers.on_device_size_in_bytes()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_product_is_that_with_the_dequantised_weight(dtype):
    """Bit for bit, and so is the gradient of what comes in."""
    rng = np.random.default_rng(1)
    integers, scale = quantise(rng.normal(size=(4, 8, 6)), shape=(2, 1, 6), dtype=jnp.int4)
    x, g = (jnp.asarray(rng.normal(size=(5, n)), dtype) for n in (32, 6))
    weight = dequantise(integers, scale).astype(dtype).reshape(32, 6)
    y, pull = jax.vjp(lambda x: product(x, integers, scale), x)
    other, other_pull = jax.vjp(lambda x: x @ weight, x)
    np.testing.assert_array_equal(y, other)
    np.testing.assert_allclose(pull(g)[0], other_pull(g)[0], rtol=0)


LLAMA = tiny.config(num_layers=2, qk_norm="head")
NETWORKS = {
    "llama": LLAMA,
    "unscanned": tiny.gpt2(num_layers=2, is_scanned=False),
    "latent": tiny.deepseek(num_layers=1),
    "encoder": tiny.bert(num_layers=1),
}


def adapted(config, **changes):
    """A tiny abstract network with adapters on all that is linear in its blocks."""
    options = {"rank": 3, "targets": ("blocks",), "has_magnitude": True}
    adapter = LoraConfig(**(options | changes))

    def make(key):
        model = config.build(key, tiny.VOCAB)
        adapter.attach(key, model)
        return model

    return jax.eval_shape(make, jax.random.key(0))


def weights(model):
    """Random weights as training may leave them, rounded where the network has integers."""
    rng, specs = np.random.default_rng(0), flatten_dict(spec_dict(model))
    params = {}
    for path, spec in flatten_dict(unquantised(unflatten_dict(specs))).items():
        values = np.float32(max(spec.fan_in, 8) ** -0.5 * rng.normal(size=spec.shape))
        if (*path, "integers") not in specs:
            params[path] = values
            continue
        rounded = quantise(values, shape=specs[*path, "scale"].shape, dtype=jnp.int4)
        params |= dict(zip(((*path, "integers"), (*path, "scale")), rounded, strict=True))
    return unflatten_dict(params)


def hidden(model, params):
    """The network's states of some rows."""
    rows = tiny.batch(0, rows=2)
    positions_BT = np.broadcast_to(np.arange(tiny.LENGTH), rows["tokens"].shape)

    @tiny.fast
    def run(params):
        network = bind(model, params)
        if isinstance(network, Encoder):
            return network(jnp.asarray(rows["tokens"]), positions_BT=positions_BT).hidden_BTD
        return network.hidden(jnp.asarray(rows["tokens"]), positions_BT=positions_BT)[0]

    return np.asarray(run(params))


@pytest.mark.slow
@pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)
def test_a_network_computes_what_it_does_with_its_weights_dequantised(config):
    model = adapted(config, base={"dtype": "int4"})
    params, plain = weights(model), adapted(config)
    wide = dequantised(params)
    assert jax.tree.structure(wide) == jax.tree.structure(spec_dict(plain))
    found = hidden(model, params)
    np.testing.assert_array_equal(found, hidden(plain, wide))
    # Merged, its adapters are in floating point again.
    whole, by_itself = merged(model, params), tiny.abstract(config)
    assert jax.tree.structure(whole) == jax.tree.structure(spec_dict(by_itself))
    # Two orders of the same sums, each rounded by 6e-8, of numbers up to about 4, in two layers.
    np.testing.assert_allclose(hidden(by_itself, whole), found, rtol=0, atol=3e-5)


def test_what_is_trained_or_outside_of_the_blocks_is_left():
    specs = flatten_dict(
        spec_dict(
            adapted(
                tiny.config(moe={"num_experts": 4, "expert_dim": 24, "num_shared_experts": 1}),
                targets=("*.query",),
                also_trained=("*.key", "out"),
                base={"dtype": "int8"},
            )
        ),
        sep=".",
    )
    rounded = {path.removesuffix(".integers") for path in specs if path.endswith(".integers")}
    assert rounded == {
        *(f"blocks.layers.attention.{name}.kernel" for name in ("query", "value", "out")),
        *(
            f"blocks.layers.moe.{part}.{name}.kernel"
            for part in ("experts", "shared")
            for name in ("gate", "up", "down")
        ),
    }
    assert all(specs[f"{path}.scale"].axes[0] == "layers" for path in rounded)
    assert specs["out.kernel"].role == "output"


def test_nothing_left_to_round_is_refused():
    with pytest.raises(ValueError, match=r"adapter\.base is given \(int4\), but adapter\.also_tr"):
        adapted(tiny.config(), also_trained=("blocks",), base={})


def test_the_backward_pass_keeps_no_weight_in_floating_point():
    """What a loop over layers leaves for it: of each weight the integers, multiplied out again."""
    model = adapted(tiny.config(num_layers=2, remat="none"), has_magnitude=False, base={})
    params = flatten_dict(jax.tree.map(jnp.asarray, weights(model)))
    learned = {path: leaf for path, leaf in params.items() if "lora" in path}

    def loss(learned):
        network = bind(model, unflatten_dict(params | learned))
        return network(jnp.asarray(tiny.batch(0, rows=2)["tokens"])).sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(learned)
    loops = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    assert len(loops) == 2  # forward and backward
    made = {(var.aval.shape, str(var.aval.dtype)) for eqn in loops for var in eqn.outvars}
    shape = params["blocks", "layers", "mlp", "up", "kernel", "integers"].shape
    assert (shape, "float32") not in made
    assert ((2, 2, tiny.LENGTH, 32), "float32") in made  # what is kept of activations


def test_adapters_gone_the_rest_is_the_network():
    model = adapted(LLAMA, base={"dtype": "int8", "tile": 8})
    rest = unquantised(without_adapters(spec_dict(model)))
    assert rest == spec_dict(tiny.abstract(LLAMA))
