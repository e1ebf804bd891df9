"""Power-law fits against laws that are known, and against numpy's own least squares."""

import numpy as np
import pytest

from varmini.experiments.scaling.fits import (
    PAPER,
    bend,
    bootstrap,
    curvature,
    envelope,
    fit_power_law,
    predict_largest,
)

N = np.array([0.01, 0.02, 0.05, 0.1, 0.3, 1.0])


def law(x, a=2.5, b=-0.2):
    return (a * np.asarray(x)) ** b


def test_a_true_law_is_found_again():
    found = fit_power_law(N, law(N))
    assert found.a == pytest.approx(2.5) and found.b == pytest.approx(-0.2)
    assert found.pearson == pytest.approx(-1) and np.abs(found.residuals).max() < 1e-12
    assert found(3.0) == pytest.approx(law(3.0)) and found(N) == pytest.approx(law(N))


def test_a_noisy_fit_is_the_least_squares_line_of_the_logs():
    y = law(N) * np.exp(np.random.default_rng(0).normal(0, 0.05, len(N)))
    found = fit_power_law(N, y)
    slope, intercept = np.polyfit(np.log(N), np.log(y), 1)
    assert found.b == pytest.approx(slope) and found.intercept == pytest.approx(intercept)
    assert found.pearson == pytest.approx(np.corrcoef(np.log(N), np.log(y))[0, 1])
    assert np.exp(found.residuals) * found(N) == pytest.approx(y)


@pytest.mark.parametrize(
    "x, y",
    [([1, 2], [1, 2, 3]), ([1, 0], [1, 2]), ([1, 2], [1, -2]), ([1, 2], [1, float("nan")]),
     ([3, 3], [1, 2]), ([], [])],
)  # fmt: skip
def test_bad_points_are_named(x, y):
    for function in (fit_power_law, bootstrap, predict_largest, curvature, bend):
        with pytest.raises(ValueError, match=r"expected as many positive numbers each"):
            function(x, y)


def test_curvature_is_the_quadratic_term():
    x = np.repeat(N, 2)
    assert curvature(x, law(x)) == pytest.approx(0, abs=1e-12)
    bent = np.exp(1 - 0.2 * np.log(x) + 0.03 * np.log(x) ** 2)
    assert curvature(x, bent) == pytest.approx(0.03) and bend(x, bent) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least 3 different x"):
        curvature([1, 2], [3, 2])
    # The bend is the share that a parabola explains.
    scatter = law(x) * np.exp(0.01 * np.tile([1, -1], len(N)))
    assert bend(x, scatter) == pytest.approx(0, abs=1e-9) and bend(x, np.ones(len(x))) == 0
    assert 0.05 < bend(x, scatter * (bent / law(x)) ** 0.1) < 0.95


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random, x, hits = np.random.default_rng(3), np.repeat(N, 2), 0
    for trial in range(40):
        y = law(x) * np.exp(random.normal(0, 0.02, len(x)))
        found = bootstrap(x, y, draws=200, seed=trial)
        hits += found["b"][0] <= -0.2 <= found["b"][1]
        assert -1 <= found["pearson"][0] <= found["pearson"][1] <= 1
    assert found == bootstrap(x, y, draws=200, seed=trial)
    assert 28 <= hits <= 40  # a bootstrap over six sizes is known to be somewhat narrow


def test_the_largest_size_is_asked_of_the_others():
    found = predict_largest([1, 1, 2, 4, 4], [8, 8, 4, 3, 3])
    assert found == pytest.approx({"predicted": 2, "measured": 3, "miss": -1 / 3})


def test_the_frontier_keeps_what_nothing_cheaper_beats():
    compute, loss = np.array([1, 2, 3, 4, 4, 5, 6]), np.array([9, 7, 8, 6, 5, 5, 4])
    for order in (np.arange(7), np.array([3, 0, 6, 2, 5, 1, 4])):
        kept = order[envelope(compute[order], loss[order])]
        assert compute[kept].tolist() == [1, 2, 4, 6] and loss[kept].tolist() == [9, 7, 5, 4]


def test_the_papers_laws_give_the_papers_losses():
    at = {measure: (a * 2.0) ** b for measure, (a, b) in PAPER["n"].items()}  # d30, 2.0 billion
    assert at["loss_last"] == pytest.approx(0.727, abs=1e-3)
    assert at["error"] == pytest.approx(0.931, abs=1e-3)
