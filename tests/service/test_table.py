"""A table grows without losing what it holds, whoever looks at it."""

from __future__ import annotations

import numpy as np
import pytest

from service.table import Table


@pytest.mark.parametrize("looked_at", [False, True])
def test_rows_stay_and_new_ones_are_zeros(looked_at: bool) -> None:
    table = Table(3, np.float32, (5,))
    table.rows[:] = np.arange(15).reshape(3, 5)
    view = table.rows[1:] if looked_at else None
    for rows in (4, 5_000, 100_000):
        table.grow(rows)
        assert table.rows.shape == (rows, 5)
        assert table.rows[:3].ravel().tolist() == list(range(15))
        assert not table.rows[3:].any()
    if view is not None:
        assert view.ravel().tolist() == list(range(5, 15))
        table.rows[1] = -1.0
        assert view[0, 0] == 5.0


def test_rows_may_have_fields() -> None:
    table = Table(1, np.dtype([("seen", "i8"), ("price", "f8")], align=True))
    table.rows["seen"] = 7
    table.grow(1000)
    assert table.rows["seen"].sum() == 7
