import jax
import jax.numpy as jnp
import numpy as np
from tiny import fast

from jaxllm.nn.rope import Rope, rotate

B, T, N, H = 2, 6, 3, 8
THETA = 100.0


def turn(x, positions):
    return fast(lambda x, positions: rotate(x, Rope(THETA).turns(positions, H)))(x, positions)


def random_heads(seed):
    return np.random.default_rng(seed).normal(size=(B, T, N, H)).astype(np.float32)


def test_equals_complex_rotation_in_float64():
    x, positions = random_heads(0), np.arange(B * T).reshape(B, T).astype(np.int32)
    pairs = x[..., : H // 2].astype(np.float64) + 1j * x[..., H // 2 :]
    angles = positions[..., None, None] * THETA ** (-2.0 * np.arange(H // 2) / H)
    turned = pairs * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    # An angle of up to 12 is rounded by 1e-6, twice.
    np.testing.assert_allclose(turn(x, positions), expected, rtol=0, atol=1e-5)


def test_products_depend_on_the_distance_alone():
    q, k = random_heads(1), random_heads(2)
    queries = np.random.default_rng(0).integers(0, 50, (B, T)).astype(np.int32)
    keys = np.random.default_rng(1).integers(0, 50, (B, T)).astype(np.int32)

    def products(offset):
        return np.einsum("BTNH,BTNH->BTN", turn(q, queries + offset), turn(k, keys + offset))

    # Angles of up to 250 are rounded by 2^-17 = 8e-6, on sums of 8 products.
    np.testing.assert_allclose(products(0), products(200), rtol=0, atol=3e-4)
    moved = np.einsum("BTNH,BTNH->BTN", turn(q, queries + 1), turn(k, keys))
    assert np.abs(products(0) - moved).max() > 0.1


def test_keeps_the_norm_and_the_dtype():
    x, positions = random_heads(3), np.full((B, T), 100_000, np.int32)
    turned = np.asarray(turn(x, positions))
    assert not np.allclose(turned, x)
    # cos^2 + sin^2 = 1 up to float32's rounding, whatever the angle.
    np.testing.assert_allclose(
        np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6, atol=0
    )
    assert turn(x.astype(jnp.bfloat16), positions).dtype == jnp.bfloat16


def test_position_zero_changes_nothing():
    x = random_heads(4)
    np.testing.assert_array_equal(turn(x, np.zeros((B, T), np.int32)), x)


def test_bfloat16_angles_are_computed_in_float32():
    """At a large position neighbours would share a bfloat16 angle."""
    x = random_heads(5)[:1, :2]
    positions = np.array([[100_000, 100_001]], np.int32)
    turned = turn(x.astype(jnp.bfloat16), positions).astype(jnp.float32)
    # The result is rounded to bfloat16, 2^-8 relative, and so is x, on values of up to three.
    np.testing.assert_allclose(turned, turn(x, positions), rtol=0, atol=4e-2)


def test_bfloat16_gradients_turn_back():
    """The gradient of <g, turn(x)> is g turned by the opposite angle."""
    x, g = (jnp.asarray(random_heads(seed), jnp.bfloat16) for seed in (6, 7))
    positions = np.arange(B * T).reshape(B, T).astype(np.int32)
    found = jax.grad(lambda x: jnp.sum(turn(x, positions).astype(jnp.float32) * g))(x)
    expected = turn(g.astype(jnp.float32), -positions)
    # Rounded to bfloat16 once, 2^-9 relative on values of up to four.
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0, atol=2e-2)


def test_bfloat16_and_float32_turn_alike():
    """Both forms compute the same float32 numbers and round them once."""
    x = jnp.asarray(random_heads(8), jnp.bfloat16)
    positions = np.arange(B * T).reshape(B, T).astype(np.int32) * 1000
    expected = turn(x.astype(jnp.float32), positions).astype(jnp.bfloat16)
    # Where a compiler contracts a product and a sum differently, the last bit may differ.
    np.testing.assert_allclose(
        turn(x, positions).astype(jnp.float32), expected.astype(jnp.float32), rtol=2**-7, atol=1e-6
    )
