"""The sweep in a tiny world: rows, resuming after a kill, laws and the command."""

import shutil

import numpy as np
import pytest
import torch
from tiny import make_tokenizer
from toy_world import Killed, image_set

from varmini import VAR, sample
from varmini.cli import main as cli
from varmini.cli.scaling import Scaling
from varmini.experiments.scaling import pictures as sweep_pictures
from varmini.experiments.scaling import sweep
from varmini.experiments.scaling.sweep import Sweep, frontier, laws, run_sweep
from varmini.runtime.machine import precision
from varmini.runtime.tables import read_rows
from varmini.training.classifier import Classifier, ClassifierConfig
from varmini.training.flops import exact_parameters, var_training_flops

SHAPE = dict(sizes=(1, 2), vocab_size=24)


@pytest.fixture(scope="module", autouse=True)
def tiny_world():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARMINI_PRECISION", "float32")
        precision.cache_clear()
        for module in (sweep, sweep_pictures):
            patch.setattr(module, "fitted", image_set)
        yield
    precision.cache_clear()


def tiny_sweep(folder, **options):
    tokenizer = make_tokenizer(**SHAPE).save_pretrained(folder / "tokenizer")
    values = dict(depths=(1, 2, 3), unit=8, images=24, batch_size=4, lr=1e-2, points=2, held_out=5,
                  data="toy", tokenizer=str(tokenizer))  # fmt: skip
    return Sweep(**values | options)


@pytest.fixture
def tiny(tmp_path):
    return tiny_sweep(tmp_path)


def without_times(rows):
    free = ("seconds", "date", "command")
    return [{k: v for k, v in row.items() if k not in free} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(rows, runs) of an uninterrupted sweep."""
    out = tmp_path_factory.mktemp("whole")
    rows = read_rows(run_sweep(tiny_sweep(out), out / "runs", out / "sweep.csv"))
    return rows, out / "runs"


def test_every_size_seed_and_moment_has_its_row(whole):
    rows, out = whole
    assert [(r["depth"], r["seed"], r["images"]) for r in rows] == [
        (d, s, i) for d in (1, 2, 3) for s in (0, 1) for i in (12, 24)
    ]
    for row in rows:
        model = VAR.from_pretrained(out / f"d{row['depth']}-s{row['seed']}")
        config = model.config
        assert (row["width"], row["heads"]) == (config.width, config.heads)
        assert config.width == 8 * row["depth"] and config.heads == row["depth"]
        assert row["parameters"] == exact_parameters(config)
        assert row["n"] == sum(
            p.numel() for name, p in model.named_parameters()
            if name.startswith(("blocks", "modulation"))
        )  # fmt: skip
        assert row["flops"] == row["images"] * var_training_flops(config)
        assert 0 < row["loss"] < 10 and 0 <= row["error_last"] <= 1
        assert row["commit"] and row["hardware"] and row["held_out"] == 5
    by_seed = [[r["loss"] for r in rows if r["seed"] == s] for s in (0, 1)]
    assert all(a != b for a, b in zip(*by_seed))
    assert len({r["lr"] for r in rows}) == 3  # flat within a run, one for each size


@pytest.mark.parametrize("step", [2, 15])
def test_a_killed_sweep_goes_on_where_it_was(tiny, whole, tmp_path, monkeypatch, step):
    out, csv, seen = tmp_path / "killed", tmp_path / "killed.csv", []
    loss = sweep.var_loss

    def count(*args):
        seen.append(1)
        if len(seen) == step:
            raise Killed
        return loss(*args)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "var_loss", count)
        with pytest.raises(Killed):
            run_sweep(tiny, out, csv)
    finished = len(read_rows(csv)) if csv.exists() else 0
    assert finished == (step - 1) // 6 * 2
    seen.clear()
    monkeypatch.setattr(sweep, "var_loss", lambda *args: seen.append(1) or loss(*args))
    run_sweep(tiny, out, csv)
    assert len(seen) == 36 - (step - 1) // 6 * 6  # finished runs take no step again
    assert without_times(read_rows(csv)) == without_times(whole[0])
    seen.clear()
    shutil.rmtree(out / "tokens")  # a finished sweep encodes nothing
    monkeypatch.delattr("varmini.model.tokenizer.MultiScaleVQVAE.encode")
    run_sweep(tiny, out, csv)
    assert not seen


def test_another_sweep_does_not_go_on_and_bad_ones_are_named(tmp_path):
    one, other = (tiny_sweep(tmp_path, depths=(1,), seeds=(0,), unit=unit) for unit in (8, 16))
    run_sweep(one, tmp_path / "runs", tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"started with .*width=8, not .*16|choose another --out"):
        run_sweep(other, tmp_path / "runs", tmp_path / "a.csv")
    for options, message in (
        (dict(depths=()), r"depths are \(\), expected at least one"),
        (dict(depths=(2, 2)), r"depths are \(2, 2\), expected at least one, each only once"),
        (dict(depths=(0, 1)), r"depths are \(0, 1\), unit 24"),
        (dict(seeds=()), "seeds are"),
        (dict(unit=0), "unit 0"),
        (dict(images=3), "expected at least a batch"),
        (dict(lr=0.0), "lr is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Sweep(**options)


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    config = ClassifierConfig(image_channels=1, num_classes=3, widths=(2, 4))
    return str(Classifier(config).save_pretrained(tmp_path / "classifier"))


def test_pictures_of_every_run_are_measured(tiny, whole, tmp_path, classifier):
    csv = tmp_path / "pictures.csv"
    sweep_pictures.measure_pictures(tiny, whole[1], csv, 5, classifier)
    rows = read_rows(csv)
    found = [(r["depth"], r["seed"], r["images"]) for r in rows]
    assert found == [(d, s, 24) for d in (1, 2, 3) for s in (0, 1)]
    for row in rows:
        assert row["n"] == 15 and row["frechet"] > 0 and row["frechet_se"] > 0 and row["commit"]
    # The same pictures as by hand.
    tok = make_tokenizer(**SHAPE)
    model = VAR.from_pretrained(whole[1] / "d2-s1")
    images = sample(model, tok, torch.arange(3).repeat_interleave(5), cfg=1.5, top_p=0.96,
                    top_k=round(24 * 900 / 4096), seed=0)  # fmt: skip
    right = Classifier.from_pretrained(classifier)(images).argmax(1) == torch.arange(15) // 5
    assert rows[3]["accuracy"] == pytest.approx(right.double().mean().item())
    assert csv.with_suffix(".png").stat().st_size > 1000
    with pytest.raises(ValueError, match="holds no finished run"):
        sweep_pictures.measure_pictures(tiny, tmp_path / "none", csv, 5, classifier)


# ----------------------------------------------------------------------------------------- the laws


def sweep_rows(bend=0.0):
    """Seven sizes, two seeds, two moments of a world whose laws are known."""
    rows = []
    for depth in range(1, 8):
        n = 10_000 * depth**3
        for seed in (0, 1):
            for images in (500, 1000):
                noise = 1 + 0.0005 * (-1) ** (seed + depth)
                loss = (2.5e-9 * n) ** (-0.05) * (1000 / images) ** 0.1 * noise
                loss *= 1 + bend * (depth - 4) ** 2
                rows.append({"depth": depth, "n": n, "seed": seed, "images": images,
                             "step": images // 2, "flops": 6.0 * n * images, "loss": loss,
                             "loss_last": 1.1 * loss, "error": 0.9 * loss,
                             "error_last": 0.95 * loss})  # fmt: skip
    return rows


def test_the_laws_of_a_known_world_are_found():
    found = {(r["measure"], r["over"]): r for r in laws(sweep_rows(), draws=100)}
    assert len(found) == 8
    row = found["loss", "n"]
    assert row["b"] == pytest.approx(-0.05, abs=1e-3) and row["points"] == 14
    assert row["a"] == pytest.approx(2.5, rel=0.1) and row["b_low"] <= row["b"] <= row["b_high"]
    assert row["pearson"] < -0.999 and abs(row["miss"]) < 0.002 and abs(row["curvature"]) < 1e-3
    assert row["paper_b"] == -0.20 and row["images"] == 1000
    assert found["error_last", "n"]["b"] == pytest.approx(-0.05, abs=1e-3)
    assert found["loss", "c"]["points"] < 28  # the frontier alone
    assert row["ends"] == 14 and found["loss", "c"]["ends"] < found["loss", "c"]["points"]
    assert row["flatter"] == pytest.approx(4, rel=0.01) and 0 <= row["bend"] < 0.5
    assert row["next_largest"] == pytest.approx(row["measured"] * (7 / 6) ** 0.15, rel=0.005)


def test_the_start_of_a_run_is_not_on_the_frontier():
    rows = sweep_rows()
    early = [row | {"step": 44, "images": 88, "flops": row["flops"] / 4} for row in rows]
    x, y = frontier(early + rows, "loss")
    assert x.tolist() == frontier(rows, "loss")[0].tolist() and (np.diff(y) < 0).all()
    assert len(frontier(early, "loss")[0]) == 0  # no moment is past the start


def test_a_bend_shows():
    row = {(r["measure"], r["over"]): r for r in laws(sweep_rows(0.01), draws=100)}["loss", "n"]
    assert row["curvature"] > 0.002 and row["largest_residual"] > 0.01 and row["bend"] > 0.7
    assert row["miss"] < -0.01  # the law promises more than the largest size holds


def test_the_command_trains_fits_and_says_so(tiny, tmp_path, classifier, capsys):
    out, csv = tmp_path / "runs", tmp_path / "sweep.csv"
    shape = "--unit 8 --seeds 0 --images 24 --batch-size 4 --points 2 --held-out 5 --data toy"
    args = [*shape.split(), "--lr", "1e-6", "--tokenizer", tiny.tokenizer, "--csv", str(csv),
            "--out", str(out)]  # fmt: skip
    args = ["scaling", "--depths", "1", "2", "3", *args]
    for bad, words in (("-1", "pictures is -1"), ("5", "no-such-network")):  # before the training
        assert cli.main([*args, "--pictures", bad, "--classifier", "no-such-network"]) == 2
        assert words in capsys.readouterr().err and not out.exists()
    pictures = ["--pictures", "5", "--classifier", classifier]
    assert cli.main([*args, *pictures]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" N)^") == 4 and "wrote" in printed
    assert len(read_rows(csv)) == 6 and len(read_rows(csv.with_name("laws.csv"))) >= 4
    assert "tokens a parameter" in printed
    assert len(read_rows(csv.with_name("pictures.csv"))) == 3
    two = ["scaling", "--depths", "1", "2", *args[5:]]
    assert cli.main([*two, *pictures]) == 0  # of the finished runs
    assert "need at least three sizes" in capsys.readouterr().out
    assert len(read_rows(csv.with_name("pictures.csv"))) == 2
    assert cli.main([*args[:-1], str(csv)]) == 2


def test_the_live_bed_has_a_sweep_of_its_own():
    for words in (["--data", "fashion-subset"], ["--data=fashion-subset", "--seeds", "0"]):
        assert Scaling.start(words).sweep == sweep.LIVE
        assert Scaling.start(words).csv != Scaling().csv
    for other in ("cifar10", "fashion-photos", "fashion"):
        assert Scaling.start(["--data", other]) == Scaling() == Scaling.start([])
