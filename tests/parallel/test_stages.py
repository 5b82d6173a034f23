"""B rows."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.parallel.mesh import ParallelConfig
from jaxllm.parallel.shard import batch_sharding
from jaxllm.parallel.stages import inside, join_rows, manual_axes, outside, split_rows

STAGES = ParallelConfig(stage=2, fsdp=2, tensor=2)


def test_the_layouts_around_and_within_a_stage():
    layout = STAGES.build()
    assert outside(layout).degree("batch") == layout.degree("batch") * 2
    assert inside(layout).mesh_axes("batch") == ("fsdp",)
    assert inside(layout).mesh_axes("layers") == ()
    assert inside(layout).pipeline is None
    unstaged = ParallelConfig().build()
    assert outside(unstaged) is unstaged


def test_the_pipeline_cuts_over_the_axes_that_leave_weights_whole():
    def manual(**sizes):
        return manual_axes(ParallelConfig(**sizes).build())

    assert manual(stage=2, fsdp=2, tensor=2) == ("stage",)
    assert manual(stage=2, slice=2, fsdp=2) == ("stage", "slice")
    assert manual(layout="zero1", stage=2, data=2, fsdp=2) == ("stage", "data", "fsdp")


def test_rows_are_split_where_they_lie_and_joined_again():
    layout = ParallelConfig(stage=2, data=4).build()
    x = jax.device_put(np.arange(32.0).reshape(32, 1), batch_sharding(outside(layout), 2))

    def there_and_back(x):
        x_GSb = split_rows(x, 2, layout, is_cut=True)
        return x_GSb, join_rows(x_GSb, layout)

    compiled = jax.jit(there_and_back).lower(x).compile()
    x_GSb, again = compiled(x)
    assert x_GSb.shape == (2, 2, 8, 1)
    np.testing.assert_array_equal(again, x)
    assert sorted(jnp.ravel(x_GSb).tolist()) == list(range(32))
    words = ("all-to-all", "all-gather", "collective-permute", "all-reduce")
    assert not any(word in compiled.as_text() for word in words)
