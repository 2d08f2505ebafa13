"""Performance: windowed means are those of the plain list, and a value costs no copy of a window."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamgauge.stream.performance import _Tail


@given(
    st.integers(1, 9),
    st.lists(st.lists(st.floats(-10, 10), max_size=20), max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_a_tail_has_the_last_values_however_they_came_and_after_a_restart(size, parts, restarts):
    tail, values = _Tail(size), []
    for number, part in enumerate(parts):
        tail.extend(np.array(part))
        values += part
        if number in restarts:
            state, tail = tail.state(), _Tail(size)
            tail.restore(state)
        for over in range(1, size + 1):
            expected = float(np.mean(values[-over:])) if len(values) >= over else None
            assert tail.last_mean(over) == expected
    assert np.frombuffer(tail.state()["values"]).tolist() == values[-size:]


def test_a_value_costs_no_copy_of_the_window():
    size, n_moves, row = 10_000, 0, None
    tail = _Tail(size)
    for _ in range(10 * size):
        tail.extend(np.ones(1))
        n_moves += tail._row is not row
        row = tail._row
        assert len(row) <= 2 * (size + 1)
    # Doublings up to the window, then one for each window of values.
    assert n_moves <= 25
