import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import PartitionSpec

from jaxllm.nn.param import spec_dict
from jaxllm.parallel.axes import WeightSpec
from jaxllm.parallel.layouts import (
    LAYOUTS,
    Layout,
    check_batch,
    check_length,
    check_weights,
    constrain,
    weight_items,
    weight_shardings,
)
from jaxllm.parallel.mesh import ParallelConfig

FSDP_TENSOR = ParallelConfig(layout="fsdp", tensor=2)


def test_weights_are_cut_as_the_table_says():
    layout = FSDP_TENSOR.build()
    shardings = dict(weight_items(spec_dict(tiny.abstract(tiny.config()))))
    shardings = {path: layout.partition(spec.axes) for path, spec in shardings.items()}
    block = "blocks.layers"
    assert shardings["embed.table"] == PartitionSpec("tensor", "fsdp")
    assert shardings["out.kernel"] == PartitionSpec("fsdp", "tensor")
    assert shardings[f"{block}.mlp.down.kernel"] == PartitionSpec(None, "tensor", "fsdp")
    assert shardings[f"{block}.attention.query.kernel"] == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert shardings[f"{block}.attention_norm.scale"] == PartitionSpec(None, "fsdp")


def test_replicated_cuts_nothing():
    layout = ParallelConfig(layout="replicated").build()
    for sharding in jax.tree.leaves(
        weight_shardings(layout, spec_dict(tiny.abstract(tiny.gpt2())))
    ):
        assert sharding.is_fully_replicated
        assert len(sharding.device_set) == 8
    assert layout.degree("batch") == 1


@pytest.mark.parametrize(
    ("config", "degree"),
    [
        (ParallelConfig(layout="data"), 8),
        (ParallelConfig(layout="fsdp"), 8),
        (ParallelConfig(layout="fsdp", data=2), 8),
        (FSDP_TENSOR, 4),
    ],
)
def test_degree_of_the_batch(config, degree):
    assert config.build().degree("batch") == degree


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_resolved_table_is_a_value(name):
    """Equal tables hash equal, others do not: jit's cache sees a change of layout."""
    one, same = (ParallelConfig(layout=name).build() for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    others = {ParallelConfig(layout=other).build() for other in LAYOUTS}
    assert len(others) == len(LAYOUTS)
    assert one in others


def test_an_unknown_axis_is_a_bug():
    with pytest.raises(AssertionError, match="unknown logical axis 'embd'"):
        FSDP_TENSOR.build().partition(("embd",))


def test_a_mesh_axis_used_twice_is_a_bug():
    with pytest.raises(AssertionError, match="uses a mesh axis twice"):
        FSDP_TENSOR.build().partition(("heads", "mlp"))


def test_a_wide_mesh_axis_that_the_layout_ignores():
    for layout, sizes, axis in [
        ("data", {"tensor": 2}, "tensor"),
        ("data", {"fsdp": 4}, "fsdp"),
        ("replicated", {"fsdp": 8, "data": 1}, "fsdp"),
        ("data", {"stage": 2}, "stage"),
    ]:
        with pytest.raises(ValueError, match=rf"parallel\.{axis} is .*'{layout}' puts nothing on"):
            ParallelConfig(layout=layout, **sizes).build()


def test_every_size_that_does_not_divide_is_listed():
    sizes = {"embed_dim": 36, "head_dim": 8, "num_kv_heads": 1, "mlp_dim": 42}
    specs = spec_dict(tiny.abstract(tiny.config(**sizes)))
    layout = ParallelConfig(layout="fsdp", fsdp=2, tensor=4).build()
    with pytest.raises(ValueError) as caught:
        check_weights(layout, specs)
    message = str(caught.value)
    for path in ("query", "key", "value", "out"):
        assert (f"attention.{path}.kernel: kv_heads of size 1 cannot be cut in 4" in message) == (
            path in ("key", "value")
        )
    assert "blocks.layers.mlp.up.kernel: mlp of size 42 cannot be cut in 4 (parallel.tensor)" in (
        message
    )
    assert "mlp.down.kernel" in message
    assert "embed of size" not in message  # 36 halves
    assert "'fsdp'" in message
    assert "change the model's size, or the parallel.* degree" in message


def test_sizes_that_divide_pass():
    check_weights(FSDP_TENSOR.build(), spec_dict(tiny.abstract(tiny.gpt2())))


def test_batch_rows_that_do_not_divide():
    layout = ParallelConfig(layout="fsdp", data=2).build()
    check_batch(layout, 16, key="data.global_batch_size")
    with pytest.raises(
        ValueError,
        match=r"data\.global_batch_size: 12 rows .* 8 .*parallel\.data x parallel\.fsdp.*of 8",
    ):
        check_batch(layout, 12, key="data.global_batch_size")
    check_batch(ParallelConfig(layout="replicated").build(), 3, key="data.global_batch_size")


def test_constrain_places_an_activation():
    layout = FSDP_TENSOR.build()
    x = jnp.ones((8, 6, 4))
    placed = jax.jit(lambda x: constrain(layout, x, "batch", "length", "act_mlp"))(x)
    assert placed.sharding.shard_shape(x.shape) == (2, 6, 2)
    assert constrain(None, x, "batch", "length", "act_mlp") is x
    with pytest.raises(AssertionError):
        constrain(None, x, "batch", "length")


def test_paths_are_those_of_the_weights():
    spec = WeightSpec((4,), ("embed",), "scale")
    assert list(weight_items({"a": {"b": spec}, "c": spec})) == [("a.b", spec), ("c", spec)]


def test_shardings_follow_any_mesh_axis_order():
    """The same table on devices in another order still gives each array all of its pieces."""
    layout = FSDP_TENSOR.build(list(reversed(jax.devices())))
    assert isinstance(layout, Layout)
    x = np.arange(64.0).reshape(8, 8)
    placed = jax.device_put(x, layout.sharding(("embed", "mlp")))
    np.testing.assert_array_equal(placed, x)
    assert placed.addressable_shards[0].data.shape == (2, 4)


def test_axes_of_one_device_drop_out():
    """A layout with a degree of 1 is the layout without it: the same specs, the same programs."""
    layout = ParallelConfig(layout="fsdp").build()
    assert layout.partition(("embed",)) == PartitionSpec("fsdp")
    assert layout.partition(("residual_length",)) == PartitionSpec(None)
    wide = ParallelConfig(fsdp=2, expert=2, context=2).build()
    assert wide.partition(("embed", "mlp")) == PartitionSpec(("fsdp", "expert", "context"), None)
    assert wide.partition(("experts", "expert_embed")) == PartitionSpec(
        "expert", ("fsdp", "context")
    )


def test_residuals_are_cut_over_tensor_and_attention_sees_whole_rows():
    layout = ParallelConfig(context=2, tensor=2).build()
    assert layout.degree("residual_length") == 4
    assert layout.degree("length") == 2
    assert layout.is_zigzag
    ulysses = ParallelConfig(context=2, context_attention="ulysses").build()
    assert not ulysses.is_zigzag


def test_zero1_cuts_optimizer_state_alone():
    layout = ParallelConfig(layout="zero1").build()
    assert layout.degree("embed") == 1
    assert layout.for_optimizer().degree("embed") == 8
    fsdp = ParallelConfig(layout="fsdp").build()
    assert fsdp.for_optimizer() == fsdp


def test_positions_that_do_not_divide():
    layout = ParallelConfig(context=2, tensor=2).build()
    check_length(layout, 16, key="data.sequence_length")
    with pytest.raises(
        ValueError,
        match=r"data\.sequence_length: 18 .* 4 parts for parallel\.context x ",
    ):
        check_length(layout, 18, key="data.sequence_length")
    zigzag = ParallelConfig(context=4).build()
    with pytest.raises(ValueError, match=r"12 positions do not divide in 8 parts"):
        check_length(zigzag, 12, key="data.sequence_length")
