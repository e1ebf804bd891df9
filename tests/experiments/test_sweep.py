"""The sweep in a tiny world: rows, resuming after a kill, laws and the command."""

import shutil

import numpy as np
import pytest
import torch
from tiny import make_tokenizer

from varmini import VAR, sample
from varmini.cli import main as cli
from varmini.data import ImageSet
from varmini.experiments.scaling import pictures as sweep_pictures
from varmini.experiments.scaling import sweep
from varmini.experiments.scaling.sweep import Sweep, frontier, laws, run_sweep
from varmini.runtime.machine import precision
from varmini.runtime.tables import read_rows
from varmini.training.classifier import Classifier, ClassifierConfig
from varmini.training.flops import exact_parameters, var_training_flops

SHAPE = dict(sizes=(1, 2), vocab_size=24)


class Killed(BaseException):
    """Ends a loop without any clean-up of its own, as SIGKILL would."""


def image_set(name, split, *options):
    count = 24 if split == "train" else 12
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 3, ("a", "b", "c"), "toy")


@pytest.fixture(autouse=True)
def tiny_world(monkeypatch):
    monkeypatch.setenv("VARMINI_PRECISION", "float32")
    precision.cache_clear()
    for module in (sweep, sweep_pictures):
        monkeypatch.setattr(module, "fitted", image_set)
    yield
    precision.cache_clear()


@pytest.fixture
def tiny(tmp_path):
    folder = make_tokenizer(**SHAPE).save_pretrained(tmp_path / "tokenizer")
    return Sweep(depths=(1, 2, 3), unit=8, seeds=(0, 1), images=24, batch_size=4, lr=1e-2,
                 points=2, held_out=5, data="toy", tokenizer=str(folder))  # fmt: skip


def without_times(rows):
    free = ("seconds", "date", "command")
    return [{k: v for k, v in row.items() if k not in free} for row in rows]


WHOLE = {}


@pytest.fixture
def whole(tiny, tmp_path_factory):
    """(rows, runs) of an uninterrupted sweep, made once."""
    if not WHOLE:
        out = tmp_path_factory.mktemp("whole")
        WHOLE["runs"] = out / "runs"
        WHOLE["rows"] = read_rows(run_sweep(tiny, out / "runs", out / "sweep.csv"))
    return WHOLE["rows"], WHOLE["runs"]


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
    run_sweep(tiny, out, csv)
    assert not seen


def test_a_finished_sweep_encodes_nothing(tiny, whole, tmp_path, monkeypatch):
    shutil.copytree(whole[1], tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "tokens")
    monkeypatch.delattr("varmini.model.tokenizer.MultiScaleVQVAE.encode")
    run_sweep(tiny, tmp_path / "runs", tmp_path / "again.csv")
    assert without_times(read_rows(tmp_path / "again.csv")) == without_times(whole[0])


def test_another_sweep_does_not_go_on_in_the_folder(tiny, tmp_path):
    one = Sweep(**{**vars(tiny), "depths": (1,), "seeds": (0,)})
    run_sweep(one, tmp_path / "runs", tmp_path / "a.csv")
    other = Sweep(**{**vars(one), "unit": 16})
    with pytest.raises(ValueError, match=r"started with .*width=8, not .*16|choose another --out"):
        run_sweep(other, tmp_path / "runs", tmp_path / "a.csv")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(depths=()), "depths is empty"),
        (dict(depths=(2, 2)), r"depths are \(2, 2\), expected each only once"),
        (dict(depths=(0, 1)), "depths holds 0"),
        (dict(seeds=()), "seeds is empty"),
        (dict(unit=0), "unit holds 0"),
        (dict(images=3), "expected at least a batch"),
        (dict(lr=0.0), "lr is 0"),
    ],
)
def test_bad_sweeps_are_named(options, message):
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
    args = ["scaling", "--depths", "1", "2", "3", "--unit", "8", "--seeds", "0", "--images", "24",
            "--batch-size", "4", "--points", "2", "--held-out", "5", "--data", "toy",
            "--lr", "1e-6", "--tokenizer", tiny.tokenizer,
            "--pictures", "5", "--classifier", classifier,
            "--out", str(out), "--csv", str(csv)]  # fmt: skip
    assert cli.main(args) == 0
    assert len(read_rows(csv.with_name("pictures.csv"))) == 3
    printed = capsys.readouterr().out
    assert printed.count(" N)^") == 4 and "wrote" in printed
    assert len(read_rows(csv)) == 6 and len(read_rows(csv.with_name("laws.csv"))) >= 4
    assert cli.main([*args[:-4], "--out", str(csv)]) == 2
    assert "cannot be made" in capsys.readouterr().err


def test_pictures_are_drawn_of_two_sizes_too_and_refused_before_the_training(
    tiny, tmp_path, classifier, capsys
):
    out, csv = tmp_path / "runs", tmp_path / "sweep.csv"
    args = ["scaling", "--depths", "1", "2", "--unit", "8", "--seeds", "0", "--images", "8",
            "--batch-size", "4", "--points", "2", "--held-out", "5", "--data", "toy",
            "--tokenizer", tiny.tokenizer, "--out", str(out), "--csv", str(csv)]  # fmt: skip
    for bad, words in (("-1", "pictures is -1"), ("5", "no-such-network")):
        assert cli.main([*args, "--pictures", bad, "--classifier", "no-such-network"]) == 2
        assert words in capsys.readouterr().err and not out.exists()
    assert cli.main([*args, "--pictures", "5", "--classifier", classifier]) == 0
    assert "need at least three sizes" in capsys.readouterr().out
    assert len(read_rows(csv.with_name("pictures.csv"))) == 2
