import numpy as np

from jaxllm.data.batch import batch_shapes, make_batch

DELIMITER = 3


def naive(tokens_BT):
    """Segments and positions, one token after the other."""
    segments, positions = np.zeros_like(tokens_BT), np.zeros_like(tokens_BT)
    for row, tokens_T in enumerate(tokens_BT):
        segment = position = 0
        for column, token in enumerate(tokens_T):
            if token == DELIMITER:
                segment, position = segment + 1, 0
            segments[row, column], positions[row, column] = segment, position
            position += 1
    return segments, positions


def test_segments_and_positions_are_those_of_a_plain_loop():
    source = np.random.default_rng(0)
    for density in (0, 1, 2, 5, 50):
        rows = np.where(source.random((6, 41)) * 50 < density, DELIMITER, 7).astype(np.int32)
        rows[0, 0] = rows[1, -2] = rows[2, -1] = DELIMITER
        batch = make_batch(rows, delimiter_id=DELIMITER, example_index=range(6))
        segments, positions = naive(rows[:, :-1])
        np.testing.assert_array_equal(batch["segment_ids"], segments)
        np.testing.assert_array_equal(batch["positions"], positions)


def test_fields_have_the_documented_types_and_shapes():
    rows = np.arange(33, dtype=np.int32).reshape(3, 11)
    numbers = [5, 2**32 + 1, 2**40]
    batch = make_batch(
        rows, delimiter_id=DELIMITER, example_index=numbers, scored_B=np.array([10, 4, 0])
    )
    dtypes = {name: field.dtype.name for name, field in batch.items()}
    assert dtypes == {
        "tokens": "int32",
        "targets": "int32",
        "segment_ids": "int32",
        "positions": "int32",
        "loss_mask": "float32",
        "example_index": "uint32",
    }
    assert all(field.flags.c_contiguous for field in batch.values())
    np.testing.assert_array_equal(batch["targets"], rows[:, 1:])
    np.testing.assert_array_equal(batch["example_index"], [5, 1, 0])
    np.testing.assert_array_equal(batch["loss_mask"].sum(axis=1), [10, 4, 0])
    assert batch["loss_mask"][1, :4].all()


def test_the_shapes_of_a_batch_are_known_before_it():
    rows_BS = np.full((3, 9), DELIMITER, np.int32)
    batch = make_batch(rows_BS, delimiter_id=DELIMITER, example_index=range(3))
    shapes = batch_shapes(3, 8)
    assert list(shapes) == list(batch)
    for name, field in batch.items():
        assert (shapes[name].shape, shapes[name].dtype) == (field.shape, field.dtype), name
