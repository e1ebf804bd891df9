"""The family's bed end to end in a tiny world: tokenizers, generators, measures, tables."""

import dataclasses
import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from varmini.cli import main as cli
from varmini.data import ImageSet, to_uint8
from varmini.data import fitted as real_fitted
from varmini.evaluation.evaluators import classifier_evaluator
from varmini.evaluation.metrics import frechet_distance, precision_recall
from varmini.evaluation.resnet import ResNet, ResNetConfig
from varmini.experiments.comparison import bed as bed_file
from varmini.experiments.comparison import measure, methods, sweep, tokenizers
from varmini.experiments.comparison.bed import Bed, Codes, claim
from varmini.experiments.comparison.measure import jackknife, measure_against
from varmini.experiments.comparison.methods import ABLATION, COMPARED, METHODS, tokenizer_of
from varmini.experiments.comparison.tokenizers import BARE, BUILDERS, FAMILY
from varmini.runtime.machine import precision
from varmini.runtime.tables import RESULTS, read_rows, write_rows
from varmini.training import train_tokenizer
from varmini.training.classifier import Classifier, ClassifierConfig
from varmini.training.flops import var_sampling_flops
from varmini.training.presets import PRESETS
from varmini.zoo.generators.family import GENERATORS
from varmini.zoo.generators.igpt import Palette
from varmini.zoo.tokenizers.family import TOKENIZERS


def image_set(name, split, *options):
    count = 60 if split == "train" else 40
    generator = torch.Generator().manual_seed(count)
    coarse = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    images = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return ImageSet(images, torch.arange(count) % 10, tuple("abcdefghij"), "toy")


QUICK = ("var", "raster-ar", "dit", "rq-transformer", "fractal-ar")
"""Methods of the tiny sweep: one of each kind of code."""


REAL = {name: vars(method) for name, method in METHODS.items()}
"""The methods as they are outside of the tiny world."""


@pytest.fixture(scope="module", autouse=True)
def tiny_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluator")
    torch.manual_seed(0)
    ResNet(ResNetConfig(widths=(4, 8))).save_pretrained(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARMINI_PRECISION", "float32")
        precision.cache_clear()
        for module in (bed_file, tokenizers, train_tokenizer):
            patch.setattr(module, "fitted", image_set)
        small = {"fractal-ar": {"widths": (16, 16, 16), "depths": (1, 1, 1), "patches": 2}}
        for name in METHODS:
            drawings = {key: value | ({"steps": 4} if "steps" in value else {})
                        for key, value in METHODS[name].drawings.items()}  # fmt: skip
            shape = small.get(name, METHODS[name].shape | {"depth": 1} if name in QUICK else {})
            patch.setitem(METHODS, name, dataclasses.replace(METHODS[name], drawings=drawings,
                                                         shape=shape, seeds=1))  # fmt: skip
        patch.setattr(sweep, "GUIDANCE", (1.0, 2.0))
        yield folder
    precision.cache_clear()


@pytest.fixture(scope="module")
def bed(tiny_world):
    return Bed(data="toy", images=32, tokenizer_images=48, batch_size=8, evaluator=str(tiny_world))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, bed):
    """(runs, tables) of a sweep over some methods."""
    runs, tables = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("results")
    claim(runs, bed)
    sweep.Sweep(Codes(bed, runs), tables / "comparison", 2, QUICK).run()
    return runs, tables


def test_each_method_gets_the_best_rate_of_its_grid_and_rows_with_their_origin(finished, bed):
    runs, tables = finished
    grid, rows = (read_rows(tables / "comparison" / f"{t}.csv") for t in ("grid", "training"))
    assert {r["method"] for r in rows} == set(QUICK)
    for row in rows:
        tried = {r["scale"]: r["val_loss"] for r in grid if r["method"] == row["method"]}
        best = min(tried, key=tried.get)
        assert min(tried) < best < max(tried)  # inside the grid, which grew if it had to
        assert row["lr"] == pytest.approx(best * methods.LR) and row["images"] == bed.images
        assert (runs / f"{row['method']}-s0" / "model.safetensors").exists()
    assert all(r["commit"] and r["hardware"] and r["date"] for r in rows + grid)


def test_guidance_is_chosen_on_training_images_and_quality_measured_on_test_images(finished):
    _, tables = finished
    chosen, quality = (rows_of(tables, t) for t in ("guidance", "quality"))
    for name in QUICK:
        drawing = next(iter(METHODS[name].drawings))
        of = {r["guidance"]: r["frechet"] for r in chosen
              if (r["method"], r.get("drawing", "")) == (name, drawing)}  # fmt: skip
        best = min(of, key=of.get)
        assert best < max(of) or max(of) > 10
        rows = [r for r in quality if (r["method"], r.get("drawing", "")) == (name, drawing)]
        assert {r["guidance"] for r in rows} == {best}
        assert all(r["n"] == 20 and r["frechet_se"] > 0 and 0 <= r["accuracy"] <= 1 for r in rows)
    found = {(r["method"], r.get("drawing", "")): r["guidance"] for r in quality}
    assert {"DDIM 25", "DDIM 250"} == {drawing for name, drawing in found if name == "dit"}
    assert found["raster-ar", "no filter"] == 1.0 and ("raster-ar", "no cache") not in found


def rows_of(tables, table):
    return read_rows(tables / "comparison" / f"{table}.csv")


def test_a_finished_sweep_takes_no_step_and_draws_nothing_again(finished, bed, monkeypatch):
    runs, tables = finished
    before = {p.name: p.read_bytes() for p in (tables / "comparison").glob("*.csv")}
    for name in ("training_loss", "draw_images"):
        monkeypatch.delattr(measure, name)
    sweep.Sweep(Codes(bed, runs), tables / "comparison", 2, QUICK).run()
    assert before == {p.name: p.read_bytes() for p in (tables / "comparison").glob("*.csv")}


def test_codes_are_what_the_tokenizer_makes_of_the_images_and_their_mirror(finished, bed):
    codes = Codes(bed, finished[0])
    tok = codes.tokenizer("rq-vae")
    x, labels = codes.load("rq-vae", tok.encode, "train")
    images = torch.stack([codes.images["train"][i][0] for i in range(60)])
    assert x.equal(torch.cat([tok.encode(images), tok.encode(images.flip(3))]))
    assert labels.tolist() == [i % 10 for i in range(60)] * 2
    var = codes.tokenizer("var")
    flat, _ = codes.load("var", var.encode, "test")
    assert flat[:3].equal(var.schedule.flatten(var.encode(image_set("", "test").images[:3].float()
                                                          / 127.5 - 1)))  # fmt: skip


@pytest.mark.parametrize("name", [n for n in BUILDERS if n not in ("var", "palette")])
def test_every_tokenizer_trains_and_is_measured(name, finished, bed, tmp_path):
    codes = Codes(bed, tmp_path)
    codes.train(name)
    row = measure.tokenizer_row(codes, name, 0, measure_against(codes.evaluator,
                                codes.images["test"]), 20)  # fmt: skip
    assert row["psnr"] > 0 and row["frechet"] > 0 and row["images"] == 48
    assert bool(row["lacks"]) == (name in BARE)
    if name != "kl":
        assert 0 < row["usage"] <= 1 and row["bits"] > 0
    before = (codes.folder(name) / "model.safetensors").read_bytes()
    codes.train(name)  # finds it finished
    assert before == (codes.folder(name) / "model.safetensors").read_bytes()


def test_only_a_border_that_is_always_black_is_left_out(bed, tmp_path, monkeypatch):
    tokenizers.train_tokenizer("palette", bed, tmp_path / "toy", 0)
    monkeypatch.setattr(tokenizers, "fitted", real_fitted)
    tokenizers.train_tokenizer("palette", Bed(), tmp_path / "real", 0)
    borders = [Palette.from_pretrained(tmp_path / name).config.border for name in ("toy", "real")]
    assert borders == [0, 1]
    images = real_fitted("fashion-subset", "train", (32, 32), 1)
    images = torch.stack([image for image, _ in images])
    images[..., 2:-2, 2:-2] = -1
    assert (images == -1).all()


def test_usage_counts_codes_over_positions_maps_and_parts():
    pair = torch.tensor([[[[0, 1], [0, 1]], [[2, 1], [0, 0]]]])  # three different pairs
    cls = TOKENIZERS["open-magvit2"]
    tok = cls(cls.config_class(side=2))
    assert measure.counts(tok, [pair])["usage"] == 3 / 512
    cls = TOKENIZERS["multiscale-bsq"]
    maps = [torch.tensor([[[5]]]), torch.tensor([[[5, 7], [7, 8]]])]
    tok = cls(cls.config_class(side=2, sizes=(1, 2)))
    row = measure.counts(tok, [maps, maps])
    assert row["usage"] == 3 / 512 and row["tokens"] == 5 and row["bits"] == 45
    assert measure.counts(tok, [torch.zeros(1, 4, 2, 2)])["numbers"] == 16


def test_parameters_are_within_a_tenth_of_vars_at_the_real_sizes(tmp_path, monkeypatch):
    monkeypatch.undo()
    sizes = {}
    for name in COMPARED:
        kind = tokenizer_of(name)
        tok = BUILDERS[kind].cls(BUILDERS[kind].config) if kind else None
        if name == "var":
            sizes[name] = 1_293_968
        else:
            model = methods.build(name, tok, **REAL[name]["shape"])
            sizes[name] = sum(p.numel() for p in model.parameters())
    assert all(0.9 < n / sizes["var"] < 1.1 for n in sizes.values()), sizes


def test_counted_flops_follow_what_is_computed(finished, bed):
    codes = Codes(bed, finished[0])
    cost = {(r["method"], r["drawing"]): r for r in measure.cost_rows(codes, QUICK)}
    assert cost["var", ""]["steps"] == 4 and cost["raster-ar", ""]["steps"] == 16
    assert cost["raster-ar", "no cache"]["flops"] > 3 * cost["raster-ar", ""]["flops"]
    tok = codes.tokenizer("var")
    decoder = measure.counted(False, tok.decode, tok.encode(torch.zeros(1, 1, 32, 32)))
    var = methods.new_model("var", codes)
    expected = var_sampling_flops(var.config)
    assert cost["var", ""]["flops"] - decoder == pytest.approx(expected, rel=0.15)


def test_times_are_taken_in_turn(bed, tmp_path):
    codes = Codes(bed, tmp_path, untrained=True)
    assert codes.about("var") == "toy, var untrained"
    rows = measure.speed_rows(codes, ("var", "raster-ar"), 2)
    names = [("var", ""), ("raster-ar", ""), ("raster-ar", "no cache")]
    assert [(r["method"], r["drawing"]) for r in rows] == names * 4
    assert {(r["batch"], r["round"]) for r in rows} == {(b, i) for b in (1, 16) for i in (0, 1)}


def test_one_system_by_the_command_and_what_it_refuses(bed, tmp_path, capsys, monkeypatch):
    options = ["--data", "toy", "--images", "32", "--tokenizer-images", "48", "--batch-size", "8",
               "--evaluator", bed.evaluator, "--out", str(tmp_path)]  # fmt: skip
    assert cli.main(["compare", "--list"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name}" in told for name in (*FAMILY, *COMPARED))
    for name in ("raster-ar", "fsq", "vqvae-bare", "palette"):
        assert cli.main(["compare", name, *options]) == 0
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    assert cli.main(["compare", "maskgti", *options]) == 2
    assert "no system named 'maskgti', expected one of: var, " in capsys.readouterr().err
    cases = (("cifar10-subset", "3 channels, expected 1"), ("none", "none: expected one of"))
    for wrong, words in cases:
        given = ["--data", wrong, "--out", str(tmp_path / "other")]
        monkeypatch.setattr(bed_file, "fitted", real_fitted)
        assert cli.main(["compare", "fsq", *given]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "other").exists()
    monkeypatch.setattr(bed_file, "fitted", image_set)
    for flags, words in ((["--speed", "-1"], "speed is -1"),
                         (["--sweep", "--evaluator", "nobody"], "no evaluator named 'nobody'")):
        given = [*options[:8], *flags, "--out", str(tmp_path / "other")]
        assert cli.main(["compare", *given]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "other").exists()
    assert cli.main(["compare", "--sweep", "--methods", "fsq", *options]) == 2
    assert "no system named 'fsq', expected one of: var, raster-ar, " in capsys.readouterr().err
    options[3] = "40"
    assert cli.main(["compare", "raster-ar", *options]) == 2
    assert "holds a comparison with images=32, not 40" in capsys.readouterr().err
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        Bed(batch_size=0)


def test_the_family_is_whole():
    assert set(GENERATORS) | {"var"} == set(COMPARED)
    assert {"var", *TOKENIZERS, "kl"} == set(FAMILY)
    assert tokenizers.LIVE == PRESETS["fashion"].tokenizer


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
    assert text.count("not measured") == 15 and "nan" not in text
    write_rows(tmp_path / "scaling" / "sweep.csv", [{"depth": d} for d in (1, 2, 3)])
    assert script.main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("make_results: error: ")


def test_the_comparison_and_the_ablation_become_tables(script, finished, bed, monkeypatch):
    runs, tables = finished
    folder, codes = tables / "comparison", Codes(bed, runs)
    about = {"command": "x", "commit": "y", "hardware": "z", "date": "2026-01-01"}
    for name, rows in (("cost", measure.cost_rows(codes, QUICK)),
                       ("speed", measure.speed_rows(codes, QUICK, 1))):  # fmt: skip
        write_rows(folder / f"{name}.csv", [row | about for row in rows])
    again = sweep.Sweep(codes, folder, 2)
    for name in ("fsq", "kl", "rq-vae-bare"):
        codes.train(name)
        again.tokenizer(name, 0)
    quality = read_rows(folder / "quality.csv")
    monkeypatch.setattr(sys.modules["comparison_report"], "ABLATION", ABLATION[:1] + ABLATION[5:])
    assert script.main(["--results", str(tables)]) == 0
    text = (tables / "README.md").read_text()
    kept = read_rows(folder / "table.csv")
    assert [r["name"] for r in kept] == [
        "VAR", "raster AR", "raster AR, no cache", "DiT, DDIM 25", "DiT, DDIM 250",
        "RQ-Transformer", "FractalAR",
    ]  # fmt: skip
    assert all(f"| {row['name']} |" in text for row in kept)
    assert all(row["ms_16_ratio"] == row["ms_16"] / kept[0]["ms_16"] for row in kept)
    var = next(r for r in quality if r["method"] == "var")
    assert kept[0]["frechet"] == var["frechet"] and kept[0]["seeds"] == 1
    assert "| rq-vae | start on data, revival | 64 x 9 bits |" in text
    assert "| kl |  | 256 numbers |  |" in text
    last = read_rows(folder / "ablation.csv")[-1]
    assert last["row"] == "+ q/k normalisation" and last["frechet"] == var["frechet"]
    assert "undecided" in text


def test_var_is_compared_with_who_has_enough_seeds(script):
    report = sys.modules["comparison_report"]
    rows = [{"method": m, "frechet": f + s / 10} for m, f, n in
            (("var", 1.0, 5), ("maskgit", 2.0, 5), ("igpt", 3.0, 3)) for s in range(n)]  # fmt: skip
    ((name, difference),) = report.against_var(rows)
    assert name == "MaskGIT" and difference.value == pytest.approx(-1) and difference.high < 0


def test_the_committed_tables_make_the_committed_text(script, tmp_path):
    shutil.copytree(RESULTS, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("figures"))
    (tmp_path / "README.md").unlink()
    assert script.main(["--results", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert text == (RESULTS / "README.md").read_text(), "run `make results`"
    shown = re.findall(r"\((\S+\.png)\)", text)
    assert len(shown) > 8 and all((tmp_path / name).stat().st_size > 1000 for name in shown)


def test_an_error_covers_sampling_and_seeds(script):
    words = sys.modules["wording"]
    error_of = words.error_of
    rows = [{"x": 1.0, "x_se": 0.3}, {"x": 1.0, "x_se": 0.4}]
    assert error_of(rows, "x") == pytest.approx(0.25)
    rows = [{"x": 0.0, "x_se": 0.1}, {"x": 2.0, "x_se": 0.1}]
    assert error_of(rows, "x") == pytest.approx(1.0)  # sd 1.41 over the root of 2
    assert error_of(rows[:1], "x") == pytest.approx(0.1)
    assert words.with_error([], "x") == words.NOT_MEASURED == "not measured"


def test_the_defaults_of_one_system_are_the_best_of_the_committed_searches():
    tried = {}
    for table, key, value in (("grid", "scale", "val_loss"), ("guidance", "guidance", "frechet")):
        for r in read_rows(RESULTS / "comparison" / f"{table}.csv"):
            tried.setdefault((r["method"], key), {})[r[key]] = r[value]
    assert len(tried) >= 8
    for (name, key), losses in tried.items():
        assert REAL[name][key] == min(losses, key=losses.get), (name, key)
