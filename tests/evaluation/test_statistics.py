"""Statistics against published tables and scipy's numbers."""

import numpy as np
import pytest

from varmini.evaluation.statistics import holm, interval, t_quantile, t_tail, welch

A, B = [27.5, 21.0, 19.0, 23.6, 17.0], [22.0, 20.8, 23.4, 28.5, 25.0, 31.0]


@pytest.mark.parametrize(
    "df, critical", [(1, 12.7062), (2, 4.30265), (5, 2.57058), (10, 2.22814), (120, 1.97993)]
)
def test_students_t_is_that_of_the_tables(df, critical):
    assert t_quantile(0.95, df) == pytest.approx(critical, rel=1e-5)
    assert t_tail(critical, df) == t_tail(-critical, df) == pytest.approx(0.05, rel=1e-5)
    assert t_tail(0, df) == pytest.approx(1)


def test_the_interval_of_a_mean_is_that_of_the_tables():
    half = 4.30265 / 3**0.5
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), rel=1e-4)
    half = 2.776445 * np.std(A, ddof=1) / 5**0.5
    assert interval(A) == pytest.approx((np.mean(A) - half, np.mean(A) + half))
    assert interval(A, 0.5)[0] > interval(A)[0] and interval([2.0, 2.0]) == (2, 2)
    assert interval([1.0]) == (-np.inf, np.inf)


def test_welchs_test_is_scipys():
    found = welch(A, B)  # scipy 1.16: ttest_ind(A, B, equal_var=False)
    assert found.p == pytest.approx(0.18691370, abs=1e-7)
    assert found.df == pytest.approx(8.49697216)
    assert (found.low, found.high) == pytest.approx((-9.05706212, 2.06372879), abs=1e-6)
    assert found.value == pytest.approx(sum(A) / 5 - sum(B) / 6) and found.seeds == (5, 6)
    other = welch(B, A)
    assert (other.value, other.low) == (-found.value, -found.high) and other.p == found.p


def test_welchs_test_is_scipys_on_any_numbers():
    stats, random = pytest.importorskip("scipy.stats"), np.random.default_rng(0)
    for _ in range(50):
        a, b = (random.normal(i, 1 + i, random.integers(2, 12)).tolist() for i in (0, 1))
        expected, found = stats.ttest_ind(a, b, equal_var=False), welch(a, b)
        assert (found.p, found.df) == pytest.approx((expected.pvalue, expected.df), abs=1e-6)


def test_equal_runs_differ_exactly_or_not_at_all():
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1 and welch([1.0, 1.0], [2.0, 2.0]).p == 0


def test_few_seeds_decide_nothing_however_far_apart():
    assert str(welch([1.0, 1.1], [9.0, 9.1])) == "2 seeds a side do not decide it, 5 could"
    words = str(welch([1.0, 1.1, 1.2, 0.9, 1.0], [9.0, 9.1, 9.2, 8.9, 9.0]))
    assert words.startswith("difference -8.00 (-8.17 to -7.83), Welch's test with 5 and 5 seeds")


def test_holm_adjusts_as_in_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
