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
    assert sum(found.residuals) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "x, y, message",
    [
        ([1, 2], [1, 2, 3], "shapes"),
        ([1, 0], [1, 2], "x holds 0.0, expected positive"),
        ([1, 2], [1, -2], "y holds -2.0, expected positive"),
        ([1, 2], [1, float("nan")], "y holds nan"),
        ([3, 3], [1, 2], "1 different values, expected at least 2"),
        ([], [], "0 different values"),
    ],
)
def test_bad_points_are_named(x, y, message):
    for function in (fit_power_law, bootstrap, predict_largest):
        with pytest.raises(ValueError, match=message):
            function(x, y)


def test_curvature_is_the_quadratic_term():
    x = np.repeat(N, 2)
    assert curvature(x, law(x)) == pytest.approx(0, abs=1e-12)
    bent = np.exp(1 - 0.2 * np.log(x) + 0.03 * np.log(x) ** 2)
    assert curvature(x, bent) == pytest.approx(0.03)
    with pytest.raises(ValueError, match="2 different values, expected at least 3"):
        curvature([1, 2], [3, 2])


def test_the_bend_is_the_share_that_a_parabola_explains():
    x = np.repeat(N, 2)
    bent = np.exp(1 - 0.2 * np.log(x) + 0.03 * np.log(x) ** 2)
    assert bend(x, bent) == pytest.approx(1)
    scatter = law(x) * np.exp(0.01 * np.tile([1, -1], len(N)))
    assert bend(x, scatter) == pytest.approx(0, abs=1e-9) and bend(x, np.ones(len(x))) == 0
    assert 0.05 < bend(x, scatter * (bent / law(x)) ** 0.1) < 0.95
    with pytest.raises(ValueError, match="expected at least 3"):
        bend([1, 2], [3, 2])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random, x, hits = np.random.default_rng(3), np.repeat(N, 2), 0
    for trial in range(40):
        y = law(x) * np.exp(random.normal(0, 0.02, len(x)))
        low, high = bootstrap(x, y, draws=200, seed=trial)["b"]
        hits += low <= -0.2 <= high
    assert 28 <= hits <= 40  # a bootstrap over six sizes is known to be somewhat narrow


def test_the_interval_is_repeatable_and_grows_with_the_noise():
    x = np.repeat(N, 2)
    noise = np.random.default_rng(1).normal(0, 1, len(x))
    widths = []
    for size in (0.01, 0.1):
        y = law(x) * np.exp(size * noise)
        found = bootstrap(x, y, draws=300)
        assert found == bootstrap(x, y, draws=300)
        assert found["b"][0] < fit_power_law(x, y).b < found["b"][1]
        assert -1 <= found["pearson"][0] <= found["pearson"][1] <= 1
        widths.append(found["b"][1] - found["b"][0])
    assert widths[1] > 5 * widths[0]


def test_the_largest_size_is_asked_of_the_others():
    x = np.array([1, 1, 2, 4, 4])
    y = np.array([8, 8, 4, 3, 3])
    found = predict_largest(x, y)
    assert found == pytest.approx({"x": 4, "predicted": 2, "measured": 3, "miss": -1 / 3})


def test_the_frontier_keeps_what_nothing_cheaper_beats():
    compute = [1, 2, 3, 4, 4, 5, 6]
    loss = [9, 7, 8, 6, 5, 5, 4]
    assert [compute[i] for i in envelope(compute, loss)] == [1, 2, 4, 6]
    assert [loss[i] for i in envelope(compute, loss)] == [9, 7, 5, 4]
    shuffled = [3, 0, 6, 2, 5, 1, 4]
    again = envelope([compute[i] for i in shuffled], [loss[i] for i in shuffled])
    assert [shuffled[i] for i in again] == list(envelope(compute, loss))


def test_the_papers_laws_give_the_papers_losses():
    at = {p.measure: float((p.a * 2.0) ** p.b) for p in PAPER if p.over == "n"}  # d30, 2.0 billion
    assert at["loss_last"] == pytest.approx(0.727, abs=1e-3)
    assert at["error"] == pytest.approx(0.931, abs=1e-3)
    assert {(p.measure, p.over) for p in PAPER} == {
        (m, x) for m in ("loss", "loss_last", "error", "error_last") for x in "nc"
    }
