"""What the last few values say of the next one."""

from __future__ import annotations

import numpy as np
import pytest

from streamgauge.detectors.autocorrelation import _COEFFICIENTS, ORDER, WIDTH, expected, remember


def fed(xs: np.ndarray) -> np.ndarray:
    """The memory after `xs`, with coefficients as of their end."""
    memory = np.zeros(WIDTH)
    for n, x in enumerate(xs):
        expected(memory, 0, n, 0.5)
        remember(memory, 0, n, x)
    return memory


def autoregressive(coefficients: list[float], n: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    xs = rng.normal(0, 0.01, n)
    for i in range(len(coefficients), n):
        xs[i] += sum(c * xs[i - 1 - j] for j, c in enumerate(coefficients))
    return 0.5 + xs


@pytest.mark.parametrize("coefficients", [[0.3], [0.6], [0.3, 0.3], [0.1, 0.1, 0.1, 0.2]])
def test_finds_the_coefficients(coefficients: list[float]) -> None:
    memory = fed(autoregressive(coefficients, 20_000))
    padded = [*coefficients, *[0.0] * (ORDER - len(coefficients))]
    assert memory[_COEFFICIENTS:] == pytest.approx(padded, abs=0.06)


def test_a_step_is_not_taken_for_autocorrelation() -> None:
    xs = autoregressive([], 4_000)
    xs[2_000:] += 0.05
    # A covariance says .86.
    assert np.corrcoef(xs[1:], xs[:-1])[0, 1] > 0.85
    assert fed(xs)[_COEFFICIENTS:].sum() < 0.1


def test_independent_values_and_alternating_ones_have_none() -> None:
    rng = np.random.default_rng(2)
    sums = [fed(rng.random(1_000))[_COEFFICIENTS:].sum() for _ in range(50)]
    assert np.median(sums) == 0
    assert max(sums) < 0.25
    assert not fed(np.resize([0.0, 1.0, 1.0], 999))[_COEFFICIENTS]
    assert not fed(np.full(500, 0.3))[_COEFFICIENTS:].any()


def test_what_is_expected_follows_the_last_values_and_stays_from_0_to_1() -> None:
    memory = fed(autoregressive([0.6], 5_000))
    first = memory[_COEFFICIENTS]
    memory[_COEFFICIENTS + 1 :] = 0
    remember(memory, 0, 5_000, 0.9)
    assert expected(memory, 0, 5_001, 0.5) == pytest.approx(0.5 + first * 0.4)
    assert expected(memory, 0, 63, 0.5) == 0.5
    memory[_COEFFICIENTS:] = [3, 0, 0, 0]
    assert expected(memory, 0, 5_001, 0.5) == 1
    remember(memory, 0, 5_001, 0.0)
    assert expected(memory, 0, 5_002, 0.5) == 0
