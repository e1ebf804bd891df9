"""The comparison end to end in a tiny world: autoencoders, methods, measures, tables, figures."""

import functools
import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from safetensors.torch import load_file

from varmini.cli import main as cli
from varmini.data import ImageSet, to_uint8
from varmini.evaluation.evaluators import classifier_evaluator
from varmini.evaluation.metrics import frechet_distance, precision_recall
from varmini.experiments import figures as result_plots
from varmini.experiments.comparison import bed as bed_file
from varmini.experiments.comparison import measure, report
from varmini.experiments.comparison.bed import KINDS, Bed, Codes, claim
from varmini.experiments.comparison.measure import jackknife, measure_against, network
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


def test_a_commit_that_reads_as_a_number_stays_text(tmp_path):
    write_rows(tmp_path / "rows.csv", [{"commit": "2662e1778366", "loss": "2662e1"}])
    assert read_rows(tmp_path / "rows.csv") == [{"commit": "2662e1778366", "loss": 26620.0}]


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
    for kind in KINDS:
        x, labels = codes.load(kind, "train")
        assert tuple(x.shape) == shapes[kind] and labels.tolist() == [i % 10 for i in range(48)]
        decoded = codes.decoder(kind)(x[:2])
        assert decoded.shape == (2, 3, 16, 16) and decoded.abs().max() <= 1
        with torch.no_grad():
            first = codes.encoder(kind)(torch.stack([codes.images["train"][i][0] for i in (0, 1)]))
        assert torch.allclose(first.float(), x[:2].float(), atol=1e-2)
    logs = [read_rows(runs / f"autoencoder-{kind}" / "log.csv")[-1]["images"] for kind in KINDS]
    assert logs == [64, 64, 64]


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
    runs, tables = finished
    cost = {r["drawing"]: r for r in read_rows(tables / "comparison" / "cost.csv")}
    assert cost["VAR"]["steps"] == 3 and cost["raster AR, cache"]["steps"] == 16
    assert cost["raster AR, no cache"]["flops"] > 3 * cost["raster AR, cache"]["flops"]
    assert cost["DiT, DDIM 250"]["flops"] == 2 * cost["DiT, DDIM 25"]["flops"]
    # A round of MaskGIT is a forward pass of both halves; a training image is about three.
    maskgit = cost["MaskGIT, 8 rounds"]
    assert maskgit["flops"] / 16 == pytest.approx(maskgit["training_flops"] / 3, rel=0.1)
    var = network(Codes(BED, runs), "var")
    assert cost["VAR"]["parameters"] == sum(p.numel() for p in var.parameters())
    from varmini.training.flops import var_sampling_flops

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


def test_flops_are_counted_where_draws_are_in_bf16(finished, monkeypatch):
    runs, tables = finished
    monkeypatch.setenv("VARMINI_PRECISION", "bfloat16")
    precision.cache_clear()
    again = measure.cost_rows(Codes(BED, runs))
    precision.cache_clear()
    before = read_rows(tables / "comparison" / "cost.csv")
    assert [r["flops"] for r in again] == [r["flops"] for r in before]


def test_the_pictures_of_a_comparison_are_shown(finished):
    assert (finished[1] / "comparison" / "samples.png").stat().st_size > 1000
    assert "(comparison/samples.png)" in report.comparison(finished[1], finished[1])


def test_times_are_taken_in_turn(finished):
    rows = read_rows(finished[1] / "comparison" / "speed.csv")
    names = [d.name for d in DRAWINGS]
    assert [r["drawing"] for r in rows] == names * 4
    assert {(r["batch"], r["round"]) for r in rows} == {(b, i) for b in (1, 16) for i in (0, 1)}


class Killed(BaseException):
    """Ends a loop without any clean-up of its own, as SIGKILL would."""


def killed_at(step, loss):
    """`loss` that ends the process, so to say, at its call number `step`; and the calls so far."""
    calls = []

    def count(*args):
        calls.append(1)
        if len(calls) == step:
            raise Killed
        return loss(*args)

    return count, calls


@pytest.mark.parametrize("step, left", [(5, 14), (12, 6)])
def test_a_killed_comparison_goes_on_where_it_was(finished, tmp_path, monkeypatch, step, left):
    """Two methods: 2 steps of a grid and 6 of a full run each."""
    monkeypatch.setattr(measure, "METHODS", {name: METHODS[name] for name in ("var", "dit")})
    loss, tables = measure.training_loss, {}
    for name in ("whole", "killed"):
        for part in ("autoencoder-multi", "autoencoder-kl", "codes"):
            shutil.copytree(finished[0] / part, tmp_path / name / part)
        work = functools.partial(measure.train_all, Codes(BED, tmp_path / name), (0,), 16, (1e-3,))
        if name == "killed":
            with monkeypatch.context() as patch:
                patch.setattr(measure, "training_loss", killed_at(step, loss)[0])
                with pytest.raises(Killed):
                    work()
        again, calls = killed_at(0, loss)
        monkeypatch.setattr(measure, "training_loss", again)
        tables[name] = [[{k: v for k, v in row.items() if k != "seconds"} for row in rows]
                        for rows in work()]  # fmt: skip
        assert len(calls) == (16 if name == "whole" else left)  # finished runs take no step again
    assert tables["killed"] == tables["whole"]
    weights = [load_file(tmp_path / name / "dit-s0" / "model.safetensors") for name in tables]
    assert all(t.equal(weights[1][k]) for k, t in weights[0].items())


def test_a_killed_autoencoder_goes_on(finished, tmp_path, monkeypatch):
    codes, loss = Codes(BED, tmp_path), bed_file.KLAutoencoder.training_loss
    with monkeypatch.context() as patch:
        patch.setattr(bed_file.KLAutoencoder, "training_loss", killed_at(2, loss)[0])
        with pytest.raises(Killed):
            codes.train_autoencoder("kl")
    assert not (codes.folder("kl") / "model.safetensors").exists()
    folders = codes.train_autoencoder("kl"), finished[0] / "autoencoder-kl"
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert all(t.equal(weights[1][k]) for k, t in weights[0].items())


def test_a_comparison_does_not_go_on_as_another(finished, capsys):
    runs, tables = finished
    with pytest.raises(ValueError, match="holds a comparison with width=16, not 32"):
        claim(runs, Bed(**{**vars(BED), "width": 32}))
    claim(runs, BED)
    places = ["--out", str(runs), "--csv", str(tables)]
    assert cli.main(["compare", "speed", *OPTIONS[:-1], "4", *places]) == 2
    assert "heads=2, not 4" in capsys.readouterr().err
    assert cli.main(["compare", "speed", *OPTIONS, "--out", str(tables / "none")]) == 2
    assert "run `varmini compare train` first" in capsys.readouterr().err


@pytest.mark.parametrize("options, message", [
    (dict(depth=6), "depth is 6, expected a multiple of 4"),
    (dict(images=0), "images is 0"),
])  # fmt: skip
def test_bad_beds_are_named(options, message):
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
    assert jackknife(moments, 50)["mean_se"] == pytest.approx(row["mean_se"], rel=0.6)


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
    sys.modules["make_results"] = module
    spec.loader.exec_module(module)
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
    for d in DRAWINGS:
        assert f"| {d.name} |" in text
    for name, setting in ABLATION:
        rows = [
            r for r in read_rows(tables / "comparison" / "quality.csv")
            if (r["method"], r["guidance"], r["filtered"])
            == (setting.method, setting.guidance, str(setting.filtered))
        ]  # fmt: skip
        mean = sum(r["frechet"] for r in rows) / 2
        assert f"| {name} | {mean:.2f} ± " in text
    cost = {r["drawing"]: r for r in read_rows(tables / "comparison" / "cost.csv")}
    assert f"{cost['VAR']['flops'] / 1e9:.2f}" in text
    assert f"; commit {next(iter(cost.values()))['commit']}; " in text
    assert (tables / "figures" / "comparison.png").stat().st_size > 1000
    kept = {r["name"]: r for r in read_rows(tables / "comparison" / "table.csv")}
    for name in kept:
        assert kept[name]["ms_16_ratio"] == kept[name]["ms_16"] / kept["VAR"]["ms_16"]
        assert all(kept[name][f"{m}_se"] >= 0 for m in report.QUALITY)
        cells = text.split(f"| {name} | ")[1].split(" |")[0:1]
        assert cells == [f"{kept[name]['parameters'] / 1e6:.2f} M"]
    assert "Every method saw 48 images, with each of 2 seeds." in text
    assert "Learning rates tried, in runs of 16 images: 0.001, 0.003; best: var 0.00" in text
    # Both claims of speed stand beside what was found, and what the lead comes from.
    assert "| raster AR, no cache | 20 | " in text and "| DiT, DDIM 250 | 45 | " in text
    changes = [row["frechet"] for row in read_rows(tables / "comparison" / "ablation.csv")]
    for before, after in zip(changes, changes[1:]):
        assert f"| {after - before:+.2f} (" in text


def test_the_figure_of_the_comparison_leaves_out_what_is_missing():
    rows = [{"name": d.name, "flops": 1e9, "ms_1": 3.0, "ms_16": 1.0, "ms_1_ratio": 2.0,
             "ms_16_ratio": 4.0, **{k: v for m in report.QUALITY
                                    for k, v in ((m, 0.5), (f"{m}_se", 0.1))}}
            for d in DRAWINGS]  # fmt: skip
    del rows[-1]["frechet"]  # not judged
    figure = result_plots.comparison(rows, report.PAPER_SPEED)
    (legend,), (distance, *_, times) = figure.legends, figure.axes
    names = [t.get_text() for t in legend.texts]
    assert names[:5] == [d.name for d in DRAWINGS[:5]] and names[-1] == "paper (times)"
    assert len(distance.containers) == 5
    crosses = [line for line in times.lines if line.get_marker() == "x"]
    assert sorted(line.get_xdata()[0] for line in crosses) == [20, 20, 45]
    plt.close(figure)


def test_an_error_covers_sampling_and_seeds():
    rows = [{"x": 1.0, "x_se": 0.3}, {"x": 1.0, "x_se": 0.4}]
    assert error_of(rows, "x") == pytest.approx(0.25)
    rows = [{"x": 0.0, "x_se": 0.1}, {"x": 2.0, "x_se": 0.1}]
    assert error_of(rows, "x") == pytest.approx(1.0)  # sd 1.41 over the root of 2
    assert error_of(rows[:1], "x") == pytest.approx(0.1)
    assert with_error([], "x") == NOT_MEASURED


def test_the_sweep_and_the_zero_shot_tasks_become_tables(script, tmp_path):
    origin = {"command": "varmini x", "commit": "abc", "date": "2026-01-02", "hardware": "toy"}
    sweep = [
        {"depth": d, "n": 1000 * d**3, "seed": s, "images": i, "step": 50 * i,
         "flops": 6e3 * d**3 * i, "held_out": 5,
         "loss": 6 * d**-0.1 * (i / 8) ** -0.05, "loss_last": 7 * d**-0.1 * (i / 8) ** -0.05,
         "error": 0.9 * d**-0.01, "error_last": 0.95 * d**-0.01, **origin}
        for d in (1, 2, 3, 4) for s in (0, 1) for i in (4, 8)
    ]  # fmt: skip
    write_rows(tmp_path / "scaling" / "sweep.csv", sweep)
    drawn = {k: v for m in report.QUALITY for k, v in ((m, 0.5), (f"{m}_se", 0.1))}
    drawn |= {"seed": 0, "images": 8, "n": 20, "cfg": 1.5} | origin
    write_rows(tmp_path / "scaling" / "pictures.csv", [{"depth": d} | drawn for d in (1, 2)])
    names = ("kept_painted", "kept_tokenizer", "seam_painted", "seam_tokenizer", "seam_pasted",
             "seam_original", "accuracy_own_painted", "accuracy_target_painted")  # fmt: skip
    row = {k: v for name in names for k, v in ((name, 0.123), (f"{name}_se", 0.01))}
    write_rows(tmp_path / "zero_shot" / "painting.csv",
               [{"task": "editing", "smooth": True, **row, **origin}])  # fmt: skip
    names = [f"repair_{a}_{s}" for a in ("corrected", "oracle") for s in ("features", "pixels")]
    names += [f"accuracy_{a}" for a in ("clean", "ignored", "corrected")]
    row = {k: v for name in names for k, v in ((name, 0.456), (f"{name}_se", 0.01))}
    rows = [{"scale": s, "share": 1.0, "changed": 1.0, **row, **origin} for s in (1, 2)]
    write_rows(tmp_path / "zero_shot" / "repair.csv", rows)
    assert script.main(["--results", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "(3.33e+04 N)^" not in text and "N)^-0.0333" in text  # 6 d^-0.1 over n ~ d^3
    assert "r of -0.99 or better" in text and text.count("(reached)") == 3
    assert "from half the length to the whole" in text and "falls by 3.4 % at the smallest" in text
    assert "| 2 | 0.50 ± 0.10 | 50.0 ± 10.0 | 0.50 ± 0.10 | 0.50 ± 0.10 |" in text
    assert "| editing, smooth | 0.1230 ± 0.0100 |" in text and "0.46 ± 0.01" in text
    assert "`varmini x`; commit abc; toy; 2026-01-02." in text
    figures = {p.name for p in (tmp_path / "figures").glob("*.png")}
    assert figures == {"scaling_n.png", "scaling_c.png", "scaling_residuals.png", "repair.png"}
    assert len(read_rows(tmp_path / "scaling" / "laws.csv")) == 8
