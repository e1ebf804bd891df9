"""Is a difference real? Intervals of means, Welch's test with its interval, Holm's correction.

Every "better" of this project goes through here. It needs at least `ENOUGH` seeds a side, Welch's
test at the 5 % level, and an interval. Student's t is written out, since scipy is no dependency.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np

ENOUGH = 5
"""Seeds a side below which nothing is called better."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(400)


def t_tail(t: float, df: float) -> float:
    """P(|T| > t) for Student's T with df >= 1 degrees of freedom.

    With u = sqrt(df) tan(angle) the density becomes cos(angle)^(df - 1), up to a constant.
    """
    start = math.atan(abs(t) / math.sqrt(df))
    half = (math.pi / 2 - start) / 2
    area = half * float(WEIGHTS @ np.cos(start + half * (NODES + 1)) ** (df - 1))
    return min(1.0, area * 2 / math.sqrt(math.pi) * math.exp(
        math.lgamma((df + 1) / 2) - math.lgamma(df / 2)))  # fmt: skip


def t_quantile(level: float, df: float) -> float:
    """The t with P(|T| <= t) = level, by bisection: 12.71 for 95 % and one degree of freedom."""
    low, high = 0.0, 1e4
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > 1 - level else (low, middle)
    return high


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean, mean -+ t_{n-1} s / sqrt(n); one value alone says nothing."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = t_quantile(level, len(values) - 1) * math.sqrt(variance(values) / len(values))
    return fmean(values) - half, fmean(values) + half


@dataclass(frozen=True)
class Difference:
    """The difference of two means, with its 95 % interval and two-sided p-value."""

    value: float
    low: float
    high: float
    df: float
    p: float
    seeds: tuple[int, int]

    @property
    def enough(self) -> bool:
        """Whether both sides have the seeds that a verdict needs."""
        return min(self.seeds) >= ENOUGH

    def __str__(self) -> str:
        if not self.enough:
            return f"{min(self.seeds)} seeds a side do not decide it, {ENOUGH} could"
        return (f"difference {self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f}), Welch's test "
                f"with {self.seeds[0]} and {self.seeds[1]} seeds, p = {self.p:.2g}")  # fmt: skip


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """mean(a) - mean(b) without assuming equal variances; one value a side says nothing.

    Source: Welch 1947; degrees of freedom of Satterthwaite 1946:
    (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1)), v the squared standard error of a mean.
    """
    value, seeds = fmean(a) - fmean(b), (len(a), len(b))
    if min(seeds) < 2:
        return Difference(value, -math.inf, math.inf, math.nan, 1.0, seeds)
    va, vb = (variance(x) / len(x) for x in (a, b))
    if va + vb == 0:  # no spread at all: the difference is exact
        return Difference(value, value, value, sum(seeds) - 2, float(value == 0), seeds)
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    error = math.sqrt(va + vb)
    half = t_quantile(0.95, df) * error
    return Difference(value, value - half, value + half, df, t_tail(value / error, df), seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a table's comparisons, adjusted so that 5 % bounds any false claim in it.

    Source: Holm 1979: the i-th smallest of m times m - i + 1, never below a smaller one's.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
