"""The comparison end to end in a tiny world: autoencoders, methods, measures, tables, figures."""

import importlib.util
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from varmini.cli import main as cli
from varmini.data import ImageSet, to_uint8
from varmini.evaluation.evaluators import classifier_evaluator
from varmini.evaluation.metrics import frechet_distance, precision_recall
from varmini.experiments.comparison import bed as bed_file
from varmini.experiments.comparison import measure
from varmini.experiments.comparison.bed import KINDS, Bed, Codes, claim
from varmini.experiments.comparison.measure import jackknife, measure_against
from varmini.experiments.comparison.methods import ABLATION, DRAWINGS, METHODS, settings
from varmini.runtime.machine import precision
from varmini.runtime.tables import (
    NOT_MEASURED,
    RESULTS,
    error_of,
    read_rows,
    with_error,
    write_rows,
)
from varmini.training import train_tokenizer
from varmini.training.classifier import Classifier, ClassifierConfig
from varmini.training.flops import var_sampling_flops

BED = Bed(data="toy", images=48, autoencoder_images=64, sizes=(1, 2, 4), vocab_size=32,
          code_channels=4, latent_channels=2, autoencoder_width=8, perceptual_network="", depth=4,
          width=16, heads=2)  # fmt: skip
OPTIONS = """--data toy --images 48 --autoencoder-images 64 --sizes 1 2 4 --vocab-size 32
    --code-channels 4 --latent-channels 2 --autoencoder-width 8 --perceptual-network= --depth 4
    --width 16 --heads 2""".split()


def image_set(name, split, *options):
    count = 60 if split == "train" else 40
    generator = torch.Generator().manual_seed(count)
    coarse = torch.randint(256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return ImageSet(images, torch.arange(count) % 10, tuple("abcdefghij"), "toy")


@pytest.fixture(scope="module", autouse=True)
def tiny_world():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARMINI_PRECISION", "float32")
        precision.cache_clear()
        for module in (bed_file, train_tokenizer):
            patch.setattr(module, "fitted", image_set)
        short = replace(DRAWINGS[-1], options={"steps": 50})  # for 250 steps take long
        patch.setattr(measure, "DRAWINGS", (*DRAWINGS[:-1], short))
        yield
    precision.cache_clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(runs, tables) of a whole comparison by the three commands."""
    runs, tables = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("results")
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(widths=(4, 8))).save_pretrained(runs / "classifier")
    places = ["--out", str(runs / "all"), "--csv", str(tables / "comparison")]
    for target, more in (
        ("train", ["--grid", "1e-3", "3e-3", "--grid-images", "16", "--seeds", "0", "1"]),
        ("measure", ["--per-class", "2", "--classifier", str(classifier), "--guidance", "2.5"]),
        ("speed", ["--rounds", "2", "--batches", "1", "16"]),
    ):
        assert cli.main(["compare", target, *OPTIONS, *more, *places]) == 0
    return runs / "all", tables


def test_every_method_is_trained_at_the_best_rate_of_its_grid(finished):
    runs, tables = finished
    grid = read_rows(tables / "comparison" / "grid.csv")
    rows = read_rows(tables / "comparison" / "training.csv")
    assert {(r["method"], r["lr"]) for r in grid} == {
        (m, lr) for m in METHODS for lr in (1e-3, 3e-3)
    }
    for name in METHODS:
        best = min((r for r in grid if r["method"] == name), key=lambda r: r["val_loss"])["lr"]
        mine = [r for r in rows if r["method"] == name]
        assert {r["seed"] for r in mine} == {0, 1} and {r["lr"] for r in mine} == {best}
        assert max(r["images"] for r in mine) == 48
        assert (runs / f"{name}-s1" / "model.safetensors").exists()
    assert all(r["commit"] and r["hardware"] for r in rows + grid)


def test_all_autoencoders_have_one_budget_and_all_methods_the_same_images(finished):
    runs, _ = finished
    codes = Codes(BED, runs)
    shapes = {"multi": (48, 21), "single": (48, 4, 4), "kl": (48, 2, 4, 4)}
    images = torch.stack([codes.images["train"][i][0] for i in (0, 1)])
    for kind in KINDS:
        x, labels = codes.load(kind, "train")
        own = codes.autoencoder(kind)
        assert tuple(x.shape) == shapes[kind] and labels.tolist() == [i % 10 for i in range(48)]
        decoded = own.decode(x[:2])
        assert decoded.shape == (2, 3, 16, 16) and decoded.abs().max() <= 1
        with torch.no_grad():
            assert torch.allclose(own.encode(images).float(), x[:2].float(), atol=1e-2)
        assert read_rows(runs / f"autoencoder-{kind}" / "log.csv")[-1]["images"] == 64


def test_parameters_and_training_flops_of_the_methods_are_alike():
    """At the default sizes; the FLOPs as they were counted for the committed table."""
    sizes = {
        name: sum(p.numel() for p in METHODS[name].build(Bed(), 10).parameters())
        for name in ("var", "raster-ar", "maskgit", "dit")
    }
    assert max(sizes.values()) < 1.4 * min(sizes.values())
    cost = {r["method"]: r for r in read_rows(RESULTS / "comparison" / "cost.csv")}
    assert {name: cost[name]["parameters"] for name in sizes} == sizes
    flops = [cost[name]["training_flops"] for name in sizes]
    assert max(flops) < 2 * min(flops)


def test_counted_flops_follow_what_is_computed(finished):
    _, tables = finished
    cost = {r["drawing"]: r for r in read_rows(tables / "comparison" / "cost.csv")}
    assert cost["VAR"]["steps"] == 3 and cost["raster AR, cache"]["steps"] == 16
    assert cost["raster AR, no cache"]["flops"] > 3 * cost["raster AR, cache"]["flops"]
    assert cost["DiT, DDIM 250"]["flops"] == 2 * cost["DiT, DDIM 25"]["flops"]
    # A round of MaskGIT is a forward pass of both halves; a training image is about three.
    maskgit = cost["MaskGIT, 8 rounds"]
    assert maskgit["flops"] / 16 == pytest.approx(maskgit["training_flops"] / 3, rel=0.1)
    var = METHODS["var"].build(BED, 10)
    assert cost["VAR"]["parameters"] == sum(p.numel() for p in var.parameters())
    assert cost["VAR"]["flops"] == pytest.approx(var_sampling_flops(var.config), rel=0.15)


def test_quality_has_every_setting_and_seed(finished):
    _, tables = finished
    rows = read_rows(tables / "comparison" / "quality.csv")
    expected = {(s.drawing or s.method, s.guidance, str(s.filtered), seed)
                for s in settings((2.5,)) for seed in (0, 1)}  # fmt: skip
    found = {(r["method"], r["guidance"], r["filtered"], r["seed"]) for r in rows}
    assert found == expected and len(rows) == len(expected)
    for _, setting in ABLATION:
        assert (setting.method, setting.guidance, str(setting.filtered), 0) in expected
    for row in rows:
        assert row["n"] == 20 and row["frechet"] >= 0 and row["frechet_se"] > 0
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["precision"] <= 1 and 0 <= row["recall"] <= 1
    bound = read_rows(tables / "comparison" / "autoencoders.csv")
    assert [r["autoencoder"] for r in bound] == ["none (real images)", *KINDS]
    assert (tables / "comparison" / "samples.png").stat().st_size > 1000


def test_flops_are_counted_where_draws_are_in_bf16(finished, monkeypatch):
    runs, tables = finished
    monkeypatch.setenv("VARMINI_PRECISION", "bfloat16")
    precision.cache_clear()
    again = measure.cost_rows(Codes(BED, runs))
    precision.cache_clear()
    before = read_rows(tables / "comparison" / "cost.csv")
    assert [r["flops"] for r in again] == [r["flops"] for r in before]


def test_times_are_taken_in_turn(finished):
    rows = read_rows(finished[1] / "comparison" / "speed.csv")
    names = [d.name for d in DRAWINGS]
    assert [r["drawing"] for r in rows] == names * 4
    assert {(r["batch"], r["round"]) for r in rows} == {(b, i) for b in (1, 16) for i in (0, 1)}


def test_a_finished_comparison_takes_no_step_again(finished, monkeypatch):
    runs, tables = finished
    monkeypatch.delattr(measure, "training_loss")
    again = measure.train_all(Codes(BED, runs), (0, 1), 16, (1e-3, 3e-3))
    for rows, name in zip(again, ("grid", "training")):
        kept = read_rows(tables / "comparison" / f"{name}.csv")
        assert len(kept) == len(rows) and all(old | new == old for old, new in zip(kept, rows))


def test_a_comparison_does_not_go_on_as_another_and_bad_beds_are_named(finished, capsys):
    runs, tables = finished
    with pytest.raises(ValueError, match="holds a comparison with width=16, not 32"):
        claim(runs, Bed(**{**vars(BED), "width": 32}))
    claim(runs, BED)
    places = ["--out", str(runs), "--csv", str(tables)]
    assert cli.main(["compare", "speed", *OPTIONS[:-1], "4", *places]) == 2
    assert "heads=2, not 4" in capsys.readouterr().err
    assert cli.main(["compare", "speed", *OPTIONS, "--out", str(tables / "none")]) == 2
    assert "run `varmini compare train` first" in capsys.readouterr().err
    for options, message in ((dict(depth=6), "depth is 6, expected a multiple of 4"),
                             (dict(heads=5), "width is 96, expected a multiple of 20"),
                             (dict(images=0), "images is 0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Bed(**options)


# ---------------------------------------------------------------------------------------- jackknife


def test_the_jackknife_of_a_mean_is_its_standard_error():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()

    def moments(rows):
        return {"mean": x[rows].mean().item(), "twice": 2 * x[rows].mean().item()}

    row = jackknife(moments, 50, groups=50)
    assert row["mean"] == pytest.approx(x.mean().item())
    assert row["mean_se"] == pytest.approx(x.std().item() / 50**0.5)
    assert row["twice_se"] == pytest.approx(2 * row["mean_se"])


def test_drawn_images_are_measured_as_the_metrics_do(tmp_path):
    torch.manual_seed(0)
    folder = Classifier(ClassifierConfig(widths=(4, 8))).save_pretrained(tmp_path)
    evaluator = classifier_evaluator(str(folder))
    real, fake = torch.rand(2, 60, 3, 16, 16) * 2 - 1
    labels = torch.arange(60) % 10
    measured = measure_against(evaluator, ImageSet(to_uint8(real), labels, ("a",) * 10, "noise"))
    row = measured(fake, labels)
    (a, _), (b, probs) = evaluator(real), evaluator(fake)
    assert row["frechet"] == pytest.approx(frechet_distance(a, b), rel=1e-4)
    assert (row["precision"], row["recall"]) == pytest.approx(precision_recall(a, b))
    assert row["accuracy"] == pytest.approx((probs.argmax(1) == labels).double().mean().item())
    with pytest.raises(ValueError, match="draw more samples"):
        measured(fake[:8], labels[:8])


# ---------------------------------------------------------------------------------- tables, figures


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).resolve().parents[2] / "scripts" / "evidence" / "make_results.py"
    spec = importlib.util.spec_from_file_location("make_results", path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as Python does for a script
    spec.loader.exec_module(module)
    sys.path.remove(str(path.parent))
    return module


def test_what_has_no_table_was_not_measured(script, tmp_path, capsys):
    assert script.main(["--results", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text.count(NOT_MEASURED) == 5 and "nan" not in text
    write_rows(tmp_path / "scaling" / "sweep.csv", [{"depth": d} for d in (1, 2, 3)])
    assert script.main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("make_results: error: ")


def test_the_comparison_and_the_ablation_become_tables(script, finished):
    _, tables = finished
    assert script.main(["--results", str(tables)]) == 0
    text = (tables / "README.md").read_text()
    assert all(f"| {d.name} |" in text for d in DRAWINGS)
    assert "Every method saw 48 images, with each of 2 seeds." in text
    kept = read_rows(tables / "comparison" / "table.csv")
    assert all(row["ms_16_ratio"] == row["ms_16"] / kept[0]["ms_16"] for row in kept)
    quality = read_rows(tables / "comparison" / "quality.csv")
    for row, (name, setting) in zip(read_rows(tables / "comparison" / "ablation.csv"), ABLATION):
        of = [r["frechet"] for r in quality
              if (r["method"], r["guidance"], r["filtered"]) == setting.key]  # fmt: skip
        assert row["row"] == name and row["frechet"] == pytest.approx(sum(of) / 2)
        assert f"| {name} | {row['frechet']:.2f} ± " in text


def test_the_committed_tables_make_the_committed_text(script, tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "README.md").unlink()
    assert script.main(["--results", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text == (RESULTS / "README.md").read_text(), "run `make results`"
    shown = re.findall(r"\((\S+\.png)\)", text)
    assert len(shown) > 8 and all((tmp_path / name).stat().st_size > 1000 for name in shown)


def test_an_error_covers_sampling_and_seeds():
    rows = [{"x": 1.0, "x_se": 0.3}, {"x": 1.0, "x_se": 0.4}]
    assert error_of(rows, "x") == pytest.approx(0.25)
    rows = [{"x": 0.0, "x_se": 0.1}, {"x": 2.0, "x_se": 0.1}]
    assert error_of(rows, "x") == pytest.approx(1.0)  # sd 1.41 over the root of 2
    assert error_of(rows[:1], "x") == pytest.approx(0.1)
    assert with_error([], "x") == NOT_MEASURED
