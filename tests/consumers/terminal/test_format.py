"""Short texts for a terminal: trends that neither hide a change nor make one up."""

from hypothesis import given
from hypothesis import strategies as st

from streamgauge.consumers.terminal.format import sparkline


@given(st.lists(st.floats(-1e6, 1e6), max_size=100), st.integers(1, 40))
def test_a_sparkline_is_no_wider_than_asked_and_has_its_extremes(values, width):
    bars = sparkline(values, width)
    assert len(bars) == min(width, len(values))
    assert set(bars) <= set("▁▂▃▄▅▆▇█")
    if len(values) <= width and len(set(values)) > 1:
        highest, lowest = bars[values.index(max(values))], bars[values.index(min(values))]
        in_unit = min(values) >= 0 and max(values) <= 1
        span_min = 0.1 if in_unit else 0.1 * abs(sum(values) / len(values))
        if max(values) - min(values) > span_min:
            assert (lowest, highest) == ("▁", "█")
        else:
            assert lowest in "▁▂▃▄▅"
            assert highest in "▄▅▆▇█"


def test_a_steady_accuracy_looks_steady_and_a_fall_does_not():
    steady = [0.92 + 0.005 * (-1) ** i for i in range(16)]
    assert len(set(sparkline(steady, 16))) <= 2
    assert sparkline([*steady, 0.7], 17)[-1] == "▁"
    assert set(sparkline([1.0] * 4, 4)) == {"▅"}
