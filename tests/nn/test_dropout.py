import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from tiny import fast

from jaxllm.nn.dropout import dropout, fold_in

RATE = 0.25
ROWS, SIZE = 8, 4096


def keys(rows=ROWS):
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.key(0), row))(jnp.arange(rows))


@pytest.fixture(scope="module")
def dropped():
    return np.asarray(fast(lambda x, k: dropout(x, RATE, k))(jnp.ones((ROWS, SIZE)), keys()))


def test_share_and_scale(dropped):
    assert set(np.unique(dropped)) == {np.float32(0), np.float32(1 / (1 - RATE))}
    # The share of 32,768 coins is off by sqrt(p q / n) = 0.0024; five of those.
    assert abs((dropped == 0).mean() - RATE) < 0.012


def test_every_example_has_a_mask_of_its_own(dropped):
    assert len({row.tobytes() for row in dropped}) == ROWS


def test_masks_follow_their_key_wherever_the_row_stands(dropped):
    order = np.random.default_rng(0).permutation(ROWS)
    shuffled = fast(lambda x, k: dropout(x, RATE, k))(jnp.ones((ROWS, SIZE)), keys()[order])
    np.testing.assert_array_equal(shuffled, dropped[order])
    single = fast(lambda x, k: dropout(x, RATE, k))(jnp.ones((1, SIZE)), keys()[3:4])
    np.testing.assert_array_equal(single[0], dropped[3])


@pytest.mark.parametrize("spec", [("rows", None), (None, "rows")])
def test_masks_do_not_depend_on_sharding(dropped, spec):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.device_put(jnp.ones((ROWS, SIZE)), NamedSharding(mesh, PartitionSpec(*spec)))
    sharded = fast(lambda x, k: dropout(x, RATE, k), out_shardings=x.sharding)(x, keys())
    np.testing.assert_array_equal(sharded, dropped)


def test_places_in_the_network_have_masks_of_their_own(dropped):
    assert fold_in(None, 3) is None
    masks = {
        np.asarray(dropout(jnp.ones((ROWS, 64)), RATE, fold_in(keys(), place))).tobytes()
        for place in range(3)
    }
    assert len(masks) == 3


def test_off_without_keys_or_rate():
    x = jnp.ones((2, 3))
    assert dropout(x, RATE, None) is x
    assert dropout(x, 0.0, keys(2)) is x


def test_bfloat16_stays_bfloat16():
    assert dropout(jnp.ones((ROWS, 4), jnp.bfloat16), RATE, keys()).dtype == jnp.bfloat16
