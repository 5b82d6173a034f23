"""Pictures as they travel, as numbers of a byte, and as a network sees them.

B batch, H height, W width, C channels of a pixel.
"""

import jax
import jax.numpy as jnp
from pydantic import Field, NonNegativeInt, PositiveFloat

from jaxllm.schema import Config

_KEY = 0x91C5  # none of a network's own


class PixelConfig(Config):
    """How pixels become numbers around zero, and which others a picture is trained as."""

    mean: tuple[float, ...] = Field((0.5,), min_length=1)
    """Mean of each channel, or one for all, where the darkest is 0 and the brightest 1."""
    std: tuple[PositiveFloat, ...] = Field((0.5,), min_length=1)
    """Standard deviation of each channel, or one for all, on the same scale."""
    is_flipped: bool = False
    """Whether every other picture, by chance, is trained on as in a mirror."""
    max_shift: NonNegativeInt = 0
    """Pixels that a picture is moved by at most in training, in both directions; what comes in is
    as dark as can be."""

    def check_channels(self, num_channels: int) -> None:
        """ValueError for a mean or a deviation that is neither one nor one a channel."""
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, num_channels):
                raise ValueError(
                    f"objective.pixels.{key} has {len(numbers)} numbers, but pictures have "
                    f"{num_channels} channels; give one for all, or one for each"
                )

    def __call__(self, pixels_BHWC: jax.Array, *, keys_B: jax.Array | None = None) -> jax.Array:
        """Bytes (uint8) as float32, normalised; what is float32 already is taken as normalised.

        keys_B: one random key an example, which moves its picture and turns it around; None, in
        evaluation, leaves it as it is.
        """
        if keys_B is not None and (self.is_flipped or self.max_shift):
            keys_B = jax.vmap(lambda key: jax.random.fold_in(key, _KEY))(keys_B)
            pixels_BHWC = jax.vmap(self._moved)(pixels_BHWC, keys_B)
        if pixels_BHWC.dtype != jnp.uint8:
            return pixels_BHWC.astype(jnp.float32)
        self.check_channels(pixels_BHWC.shape[-1])
        scaled_BHWC = pixels_BHWC.astype(jnp.float32) / 255
        return (scaled_BHWC - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def _moved(self, pixels_HWC: jax.Array, key: jax.Array) -> jax.Array:
        """A picture as in a mirror or not, and shifted."""
        flip_key, shift_key = jax.random.split(key)
        if self.is_flipped:
            is_mirror = jax.random.bernoulli(flip_key)
            pixels_HWC = jnp.where(is_mirror, pixels_HWC[:, ::-1], pixels_HWC)
        if not self.max_shift:
            return pixels_HWC
        by = self.max_shift
        wide_HWC = jnp.pad(pixels_HWC, ((by, by), (by, by), (0, 0)))
        start = jax.random.randint(shift_key, (2,), 0, 2 * by + 1)
        return jax.lax.dynamic_slice(wide_HWC, (*start, 0), pixels_HWC.shape)
