"""Sinusoidal positions (arXiv:1706.03762, section 3.5): computed, not a weight.

B batch, T length, D embed, F frequencies.
"""

import jax
import jax.numpy as jnp
import numpy as np

LONGEST = 10_000.0  # wavelengths are from 2 pi to 2 pi times this


def sinusoids(positions_BT: jax.Array, embed_dim: int) -> jax.Array:
    """(B, T) -> (B, T, D) float32: sines of D / 2 frequencies, then their cosines.

    The paper takes turns of one sine and one cosine. Marian, and with it every published
    checkpoint, has all sines first; to a network that learns its weights it is the same.
    """
    assert embed_dim % 2 == 0, embed_dim
    frequencies_F = LONGEST ** -(np.arange(0, embed_dim, 2) / embed_dim)
    # float32: in bf16 the angles of neighbours are equal from position 256 on.
    angles_BTF = positions_BT[..., None].astype(jnp.float32) * frequencies_F.astype(np.float32)
    return jnp.concatenate([jnp.sin(angles_BTF), jnp.cos(angles_BTF)], axis=-1)
