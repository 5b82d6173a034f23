import lzma
import random

import pytest

from jaxllm.evaluation.compression import xz_bits_per_byte


def text(seed, words=3000):
    rng = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(200)]
    return " ".join(rng.choices(vocabulary, k=words)).encode()


def xz_size(data):
    """Size of the .xz file at the strongest preset, `xz -9e`."""
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, preset=lzma.PRESET_EXTREME | 9)
    return len(compressor.compress(data) + compressor.flush())


def test_equals_the_difference_of_two_files():
    train, validation = text(0), text(1, words=700)
    expected = 8 * (xz_size(train + validation) - xz_size(train)) / len(validation)
    assert xz_bits_per_byte(train, validation) == pytest.approx(expected, rel=1e-12)


def test_a_text_seen_before_costs_next_to_nothing():
    train = text(0)
    assert xz_bits_per_byte(train, train[:4000]) < 0.1
    assert xz_bits_per_byte(b"", text(1)) > xz_bits_per_byte(train, text(1)) > 0.5
