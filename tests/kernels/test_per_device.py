import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from tiny import fast

from jaxllm.kernels.per_device import per_device
from jaxllm.parallel.mesh import ParallelConfig

AXES = ("batch", "length")


def layout():
    return ParallelConfig(data=2, fsdp=1, context=2, tensor=2).build()


def test_the_function_sees_its_part():
    shapes = []

    def local(x, whole):
        shapes.append((x.shape, whole.shape))
        return 2 * x + whole.sum()

    x = np.arange(32.0, dtype=np.float32).reshape(4, 8)
    call = per_device(local, layout(), in_axes=(AXES, ()), out_axes=AXES)
    np.testing.assert_array_equal(fast(call)(x, np.ones(3, np.float32)), 2 * x + 3)
    assert shapes == [((2, 4), (3,))]


def test_the_gradient_of_a_whole_argument_is_summed_over_devices():
    def loss(w, along):
        local = per_device(
            lambda w: w * jnp.ones((2, 4)), layout(), in_axes=((),), out_axes=AXES, along=along
        )
        return jnp.sum(local(w))

    # Four parts of eight ones each, however many devices hold a copy of a part.
    for along in (None, AXES):
        assert fast(jax.grad(lambda w, a=along: loss(w, a)))(1.0) == 32.0


def test_along_nothing_that_is_cut_is_the_function_itself():
    single = ParallelConfig().build(jax.devices()[:1])
    assert per_device(min, single, in_axes=(AXES,), out_axes=AXES, along=AXES) is min


def test_works_where_some_axes_are_manual_already():
    staged = ParallelConfig(stage=2, data=1, fsdp=1, context=2, tensor=2).build()

    def stage(x):
        number = per_device(
            lambda x: x + jax.lax.axis_index("context"), staged, in_axes=(AXES,), out_axes=AXES
        )
        return number(x) + 10 * jax.lax.axis_index("stage")

    outer = jax.shard_map(
        stage,
        mesh=staged.mesh,
        in_specs=P("stage"),
        out_specs=P("stage"),
        axis_names={"stage"},
        check_vma=False,
    )
    expected = np.array([[0, 0, 1, 1], [10, 10, 11, 11]])
    np.testing.assert_array_equal(fast(outer)(np.zeros((2, 4), np.int32)), expected)
