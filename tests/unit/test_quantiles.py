from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.quantiles import interpolated, nearest_rank


@given(st.lists(st.integers(1, 10_000), min_size=1), st.floats(0.01, 1.0))
def test_nearest_rank_covers_its_fraction(values: list[int], fraction: float) -> None:
    value = nearest_rank(sorted(values), fraction)
    assert value in values
    assert sum(other <= value for other in values) >= fraction * len(values) - 1e-9


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=60), st.floats(0, 1))
def test_interpolated_equals_numpy(values: list[float], fraction: float) -> None:
    assert interpolated(sorted(values), fraction) == pytest.approx(float(numpy.quantile(values, fraction)), abs=1e-9)


@pytest.mark.parametrize("quantile", [nearest_rank, interpolated])
def test_quantile_of_no_values_is_an_error(quantile) -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)
