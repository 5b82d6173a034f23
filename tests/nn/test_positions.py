import numpy as np

from jaxllm.nn.positions import sinusoids


def paper(position, embed_dim):
    """The definition of arXiv:1706.03762, 3.5: sines and cosines take turns."""
    angles = position / 10_000 ** (np.arange(0, embed_dim, 2) / embed_dim)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(embed_dim)


def test_the_papers_numbers_sines_first():
    positions = np.array([[0, 1, 2], [7, 40, 511]])
    found = sinusoids(positions, 12)
    assert found.shape == (2, 3, 12)
    assert found.dtype == np.float32
    for index in np.ndindex(2, 3):
        turns = paper(positions[index], 12)
        expected = np.concatenate([turns[0::2], turns[1::2]])
        # An angle of 511 is rounded by up to 3e-5 in float32.
        np.testing.assert_allclose(found[index], expected, rtol=0, atol=4e-5)


def test_far_positions_differ_from_their_neighbours():
    found = np.asarray(sinusoids(np.arange(5000)[None], 8)[0])
    steps = np.abs(np.diff(found, axis=0)).max(axis=1)
    assert steps.min() > 0.5  # the fastest frequency is one radian a position
