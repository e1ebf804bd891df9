"""Laws with a floor against laws that are known."""

import numpy as np
import pytest

from varmini.experiments.scaling.fits import bootstrap, fit_power_law, resample
from varmini.experiments.scaling.floors import bootstrap_floor, fit_floor, floors, write_laws
from varmini.runtime.tables import read_rows

N = np.geomspace(1e-5, 4e-3, 7)


def law(x, floor=5.6, scale=0.02, b=-0.3):
    return floor + scale * np.asarray(x) ** b


@pytest.mark.parametrize("floor, scale, b", [(5.6, 0.02, -0.3), (0.0, 2.0, -0.1), (3.0, 0.5, -1.2)])
def test_a_true_law_is_found_again(floor, scale, b):
    y = law(N, floor, scale, b)
    found = fit_floor(N, y)
    assert found.b == pytest.approx(b, abs=1e-4) and found.floor == pytest.approx(floor, abs=1e-3)
    assert found.pearson == pytest.approx(-1, abs=1e-6) and not found.edge
    assert found(N) == pytest.approx(y, rel=1e-6)
    assert found(1.0) == pytest.approx(law(1.0, floor, scale, b), rel=1e-3)


def test_what_a_pure_law_misses_through_a_floor():
    y = law(N)
    pure, held = fit_power_law(N, y), N < N.max()
    assert pure.b > -0.05  # far flatter than the law above its floor
    asked = fit_floor(N[held], y[held])(N.max()) / y[-1] - 1
    assert abs(asked) < 1e-4 < abs(fit_power_law(N[held], y[held])(N.max()) / y[-1] - 1)


def test_no_other_floor_or_exponent_fits_better():
    random = np.random.default_rng(0)
    x = np.repeat(N, 2)
    y = law(x) + random.normal(0, 0.01, len(x))
    found = fit_floor(x, y)
    least = ((found(x) - y) ** 2).sum()
    for b in np.linspace(-1.5, -0.01, 300):
        basis = np.stack([np.ones(len(x)), x**b], 1)
        (e, a), *_ = np.linalg.lstsq(basis, y, rcond=None)
        if e >= 0 and a >= 0:
            assert ((basis @ [e, a] - y) ** 2).sum() >= least * (1 - 1e-6)


def test_a_rising_measure_has_no_exponent_to_find():
    flat = fit_floor(N, np.linspace(1, 2, len(N)))  # rises: the best falling law is flat
    assert flat.scale == 0 and flat.floor == pytest.approx(1.5)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random, x, hits = np.random.default_rng(3), np.repeat(N, 2), 0
    for trial in range(40):
        y = law(x) + random.normal(0, 0.005, len(x))
        found = bootstrap_floor(x, y, draws=200, seed=trial)
        hits += found["b"][0] <= -0.3 <= found["b"][1]
        assert 0 <= found["floor"][0] <= found["floor"][1] <= y.min() + 0.02
    assert found == bootstrap_floor(x, y, draws=200, seed=trial)
    assert 28 <= hits <= 40  # narrow, as the one without a floor


def test_draws_show_as_many_sizes_as_asked():
    x = np.repeat([1.0, 2.0, 4.0], 2)
    for least in (2, 3):
        weights = resample(x, draws=300, seed=0, least=least)
        assert weights.shape == (300, 6) and (weights.sum(1) == 6).all()
        assert (weights.reshape(300, 3, 2).sum(2) > 0).sum(1).min() == least
    assert bootstrap(x, 1 / x, draws=50)["b"] == pytest.approx((-1, -1))


def test_rows_of_a_sweep():
    rows = [{"n": n * 1e9, "images": images, "loss_last": law(n) * (1 + 1 / images), "loss": law(n),
             "error_last": law(n, 0.9, 0.001), "error": law(n, 0.9, 0.001), "seed": seed}
            for n in N for images in (100, 200) for seed in (0, 1)]  # fmt: skip
    found = {row["measure"]: row for row in floors(rows, draws=100)}
    assert set(found) == {"loss_last", "loss", "error_last", "error"}
    row = found["loss"]
    assert row["points"] == 14
    assert [row["b_low"], row["b_high"]] == pytest.approx([-0.3, -0.3], rel=0.02)  # of the grid
    assert abs(row["miss"]) < 1e-4 < abs(row["pure_miss"]) and row["next_miss"] > 0
    assert row["rms"] < 1e-4 < row["rms_pure"] and row["paper_b"] == -0.2


@pytest.mark.parametrize("x, y", [([1, 2], [2, 1]), ([1, 2, 3], [1, 2]), ([1, 2, 0], [3, 2, 1])])
def test_bad_points_are_named(x, y):
    with pytest.raises(ValueError, match="at least 3 different x"):
        fit_floor(x, y)


def test_what_a_sweep_says(tmp_path):
    rows = [{"depth": d, "n": n * 1000, "images": images, "step": images, "tokens": 30, "seed": 0,
             "flops": n * images * 1e10} | dict.fromkeys(("loss", "loss_last", "error",
             "error_last"), law(n) + 1 / images)
            for d, n in enumerate((1, 2, 4, 8)) for images in (1000, 2000)]  # fmt: skip
    told = write_laws(rows, tmp_path / "sweep.csv")
    assert sum(" + (a N)^-0.3" in line for line in told) == 2
    assert "tokens a parameter: 60 at the smallest size, 7.5 at the largest" in told
    assert len(read_rows(tmp_path / "floors.csv")) == 4 and "floors.csv" in told[-1]
    assert "floors.csv" not in write_laws(rows[:6], tmp_path / "sweep.csv")[-1]
    assert "at least three sizes" in write_laws(rows[:4], tmp_path / "sweep.csv")[0]
