import pytest

from jaxllm.parallel.axes import ACTIVATION_AXES, WEIGHT_AXES, WeightSpec
from jaxllm.parallel.layouts import LAYOUTS, MESH_AXES

QUERY = WeightSpec((8, 4, 6), ("embed", "heads", "head_dim"), "hidden", (0,), (1, 2))


def test_stacking_moves_every_dimension_by_one():
    stacked = QUERY.stacked("layers", 3)
    assert stacked.shape == (3, 8, 4, 6)
    assert stacked.axes == ("layers", "embed", "heads", "head_dim")
    assert (stacked.input_dims, stacked.output_dims, stacked.batch_dims) == ((1,), (2, 3), (0,))
    assert stacked.fan_in == QUERY.fan_in == 8
    assert stacked.role == QUERY.role


def test_a_spec_that_contradicts_itself_is_refused():
    with pytest.raises(AssertionError):
        WeightSpec((8,), ("embed", "mlp"), "hidden")
    with pytest.raises(AssertionError):
        WeightSpec((8, 4), ("embed", "mlp"), "hidden", (0,), (0, 1))
    with pytest.raises(AssertionError, match=r"not a weight axis.*batch"):
        WeightSpec((8, 4), ("batch", "embed"), "hidden", (0,), (1,))


def test_the_table_names_known_axes_only():
    assert not set(WEIGHT_AXES) & set(ACTIVATION_AXES)
    for rows in LAYOUTS.values():
        assert set(rows) <= {*WEIGHT_AXES, *ACTIVATION_AXES}
        assert {axis for axes in rows.values() for axis in axes} <= set(MESH_AXES)
