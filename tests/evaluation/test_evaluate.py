"""Evaluation by the protocol: sharded draws, evaluators, references, the command."""

import dataclasses
import json
import re
import shutil
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pictures import message as error
from tiny import make_tokenizer, make_var
from toy_world import on_two_processes

from varmini import ScaleSchedule, sample
from varmini.cli import evaluate
from varmini.cli import main as cli
from varmini.data import to_uint8
from varmini.evaluation import evaluators, fid, npz
from varmini.evaluation import samples as sampling_run
from varmini.evaluation.evaluators import Evaluator
from varmini.evaluation.metrics import frechet_distance, inception_score, precision_recall
from varmini.evaluation.samples import Draw, draw_samples
from varmini.runtime.files import file_checksum
from varmini.runtime.tables import read_cells as rows
from varmini.training.classifier import Classifier, ClassifierConfig

ROOT = Path(__file__).resolve().parents[2]
OTHER = ROOT / "results" / "timings.csv"
"""A table, but not of samples."""
DRAW = Draw("var", "tok", num_classes=3, per_class=4, top_k=0, top_p=0.0)


@pytest.fixture
def var():
    """Small weights: samples that differ from each other."""
    return make_var(ScaleSchedule((1, 2, 4)), std=0.1)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(sampling_run, "SHARD", 6)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """tokenizer/, var/, classifier/ (random, grey, 16 pixels, 3 classes) and pictures/."""
    folder = tmp_path_factory.mktemp("models")
    make_tokenizer().save_pretrained(folder / "tokenizer")
    make_var(ScaleSchedule((1, 2, 4)), std=0.1).save_pretrained(folder / "var")
    torch.manual_seed(0)
    config = ClassifierConfig(num_classes=3, image_channels=1, widths=(4, 6))
    Classifier(config).save_pretrained(folder / "classifier")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(3):
            (folder / f"pictures/{part}/{label}").mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (18, 18), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"pictures/{part}/{label}/{i}.png")
    return folder


def stub(name: str = "stub", **options) -> Evaluator:
    """Nine features that only pixels decide: means of the rows and columns of a 3x3 grid."""

    def run(images):
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        x = torch.nn.functional.adaptive_avg_pool2d(images.double(), 3)[:, 0].flatten(1) / 16
        return x, torch.stack([x[:, :3].sum(1), x[:, 3:].sum(1) / 2], 1).softmax(1)

    return Evaluator(name, f"the {name} of the tests", 9, run, **options)


def command(models: Path, out: Path, *more: object) -> list[str]:
    given = ["evaluate", "samples", "--var", models / "var", "--data", models / "pictures",
             "--classifier", models / "classifier", "--per-class", 4, "--samples", out / "drawn",
             "--out", out / "rows.csv", *more]  # fmt: skip
    return [str(word) for word in given]


# ------------------------------------------------------------------------------------------- draws


def test_a_part_of_a_draw_is_that_part(tok, var):
    labels = [0, 1, 2, 0, 1]
    whole = sample(var, tok, labels, seed=3, batch_size=5)
    assert torch.equal(sample(var, tok, labels[2:], seed=3, batch_size=5, first=2), whole[2:])
    assert "needs the draw's seed" in error(sample, var, tok, labels, first=2)


def test_samples_file_is_what_adm_reads(tok, var, tmp_path, small_shards):
    path = draw_samples(var, tok, DRAW, tmp_path, batch_size=3)
    with np.load(path) as file:
        images, labels = file["arr_0"], file["arr_1"]
    assert images.dtype == np.uint8 and images.shape == (12, 16, 16, 3)
    assert labels.tolist() == [0, 1, 2] * 4  # every 3 in a row hold all classes
    assert len({image.tobytes() for image in images}) == 12  # no two batches repeat
    drawn = sample(var, tok, labels.tolist(), seed=0, top_k=0, top_p=0.0, batch_size=3)
    assert np.array_equal(images, to_uint8(drawn).expand(-1, 3, -1, -1).permute(0, 2, 3, 1))
    assert {p.name for p in path.parent.iterdir()} == {"samples.npz", "draw.json"}
    assert json.loads((path.parent / "draw.json").read_text())["session"]["hardware"]


def test_shards_are_kept_and_any_number_of_processes_finish_them(tok, var, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling_run, "SHARD", 5)
    whole = draw_samples(var, tok, DRAW, tmp_path / "one").read_bytes()
    made, real = [], sampling_run.draw_part

    def counted(*args, **options):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(args[3])
        return real(*args, **options)

    monkeypatch.setattr(sampling_run, "draw_part", counted)
    with pytest.raises(KeyboardInterrupt):  # after one of three shards
        draw_samples(var, tok, DRAW, tmp_path / "two")
    folder = tmp_path / "two" / DRAW.folder
    assert [p.name for p in folder.glob("part-*")] == ["part-000000-000005.npy"]
    monkeypatch.setattr(sampling_run, "draw_part", real)
    # The second of two processes goes on with its share, then one process alone with the rest.
    for name, answer in (("world", 2), ("rank", 1), ("is_main", False), ("wait", None)):
        monkeypatch.setattr(sampling_run.distributed, name, lambda answer=answer: answer)
    monkeypatch.setattr(sampling_run.distributed, "largest", lambda value: value)
    draw_samples(var, tok, DRAW, tmp_path / "two")
    second = folder / "part-000005-000010.npy"
    assert second.is_file() and not (folder / "part-000010-000012.npy").exists()
    monkeypatch.undo()
    monkeypatch.setattr(sampling_run, "SHARD", 5)
    second.write_bytes(second.read_bytes()[:-7])  # torn by a full disk: drawn again
    assert draw_samples(var, tok, DRAW, tmp_path / "two").read_bytes() == whole
    monkeypatch.setattr(sampling_run, "draw_part", counted)  # would raise
    assert draw_samples(var, tok, DRAW, tmp_path / "two").read_bytes() == whole


def test_draws_never_meet(tok, var, tmp_path):
    others = {"per_class": 5, "cfg": 2.0, "seed": 1, "var": "x", "tokenizer": "x", "top_k": 3}
    folders = {dataclasses.replace(DRAW, **{k: v}).folder for k, v in others.items()}
    assert len(folders | {DRAW.folder}) == 7
    path = draw_samples(var, tok, dataclasses.replace(DRAW, per_class=1), tmp_path)
    note = path.parent / "draw.json"
    note.write_text(note.read_text().replace('"seed": 0', '"seed": 9'))
    text = error(draw_samples, var, tok, dataclasses.replace(DRAW, per_class=1), tmp_path)
    assert "holds another draw" in text
    assert "per_class is 0" in error(dataclasses.replace, DRAW, per_class=0)


def test_two_processes_of_torchrun_give_the_same_file(models, tmp_path, small_shards):
    code = (
        "import sys\nfrom varmini.cli import main\nfrom varmini.evaluation import samples\n"
        "samples.SHARD = 6\nraise SystemExit(main.main(sys.argv[1:]))"
    )
    (tmp_path / "run.py").write_text(code)
    printed = on_two_processes(tmp_path / "run.py", *command(models, tmp_path))
    assert len(re.findall(r"^frechet", printed, re.M)) == 1  # one process tells it
    assert cli.main(command(models, tmp_path / "alone")) == 0
    files = [next((tmp_path / at / "drawn").rglob("samples.npz")) for at in (".", "alone")]
    assert files[0].read_bytes() == files[1].read_bytes()
    figures = [rows(tmp_path / at / "rows.csv")[0] for at in (".", "alone")]
    key = "frechet_own_classifier"
    assert float(figures[0][key]) == pytest.approx(float(figures[1][key]), rel=1e-6)


# ----------------------------------------------------------------------- evaluators and references


def test_figures_bear_the_name_of_their_network():
    results = {"n": 3, "frechet": 1.0, "precision": 0.5, "recall": 0.4, "inception_score": 2.0}
    published = stub(adm=True).name_figures(results)
    assert list(published) == ["n", "fid", "precision", "recall", "inception_score"]
    ours = stub("cifar10_classifier").name_figures(results)
    assert list(ours) == ["n", *(f"{k}_cifar10_classifier" for k in evaluators.FIGURES)]


def test_inception_is_the_librarys(monkeypatch, tmp_path):
    class Network(torch.nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path):
            super().__init__()
            assert features_list == ["2048", "logits_unbiased"]
            torch.load(feature_extractor_weights_path)

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            sums = x.double().flatten(1).sum(1, keepdim=True)
            return sums.expand(-1, 2048), torch.cat([sums, sums + 1], 1)

    module = types.SimpleNamespace(FeatureExtractorInceptionV3=Network)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(2)}, path)
    monkeypatch.setenv("VARMINI_INCEPTION", str(path))
    monkeypatch.setattr(evaluators, "WEIGHTS_SUM", file_checksum(path)[:8])
    evaluator, line = evaluators.load_evaluator(None, 3, 256)
    assert evaluator.adm and evaluator.features == 2048
    assert evaluator.name == "inception" and line == ""
    assert "torch-fidelity, weights " in evaluator.about
    features, probs = evaluator(torch.ones(2, 1, 4, 4))
    assert features.shape == (2, 2048) and features[0, 0] == 255 * 3 * 16
    torch.testing.assert_close(probs.sum(1), torch.ones(2))
    torch.save({"w": torch.ones(2)}, path)  # another's are not even opened: they are a pickle
    assert "cannot be loaded (checksum " in error(evaluators.load_evaluator, "inception", 3, 256)


def test_without_inception_our_evaluator_measures_and_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert "pip install 'varmini[metrics]'" in error(evaluators.load_evaluator, "inception", 3, 32)
    evaluator, line = evaluators.load_evaluator(None, 3, 256)
    assert evaluator.name == "cifar10_evaluator" and line.startswith("no FID: ")
    assert evaluators.load_evaluator(None, 3, 32)[1] == ""
    assert evaluators.load_evaluator(None, 1, 256)[0].name == "fashion_evaluator"
    assert evaluators.load_evaluator("cifar10", 3, 32)[0].name == "cifar10_classifier"


def test_reference_from_images_or_files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 12, 12), generator=generator, dtype=torch.uint8)
    evaluator = stub()
    known = fid.reference_of(evaluator, iter(images.split(7)), 40, "these")
    features = evaluator(images)[0]
    torch.testing.assert_close(known.covariance, torch.cov(features.double().T))
    assert known.count == 40 and torch.equal(known.features, features)

    arrays = {"mu": known.mean.numpy(), "sigma": known.covariance.numpy()}
    pixels = images.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "pytorch-fid.npz", **arrays)
    np.savez_compressed(tmp_path / "adm.npz", arr_0=pixels, mu_s=np.zeros(2), **arrays)
    np.savez(tmp_path / "batch.npz", pixels)
    for name in ("pytorch-fid", "adm", "batch"):
        found = fid.load_reference(tmp_path / f"{name}.npz", evaluator, batch_size=9)
        torch.testing.assert_close(found.mean, known.mean)
        torch.testing.assert_close(found.covariance, known.covariance)
        assert found.about.startswith(f"{name}.npz, checksum ")
        assert (found.features is None) == (name == "pytorch-fid")
        assert found.count == (40 if name == "batch" else None)


@pytest.mark.parametrize("arrays, expected", [
    ({"mu": np.zeros(9)}, "expected mu and sigma"),
    ({"mu": np.zeros(8), "sigma": np.eye(8)}, "gives 9 features: name the --classifier"),
    ({"mu": np.zeros(9), "sigma": np.full((9, 9), np.nan)}, "NaN"),
    ({"mu": np.array([None] * 9), "sigma": np.eye(9)}, "cannot read mu"),
    ({"arr_0": np.zeros((20, 4, 4), np.uint8)}, "expected uint8 (N, H, W, 3)"),
    ({"arr_0": np.zeros((5, 4, 4, 3), np.uint8)}, "holds 5 samples of 9 features"),
])  # fmt: skip
def test_references_that_do_not_serve(tmp_path, arrays, expected):
    np.savez(tmp_path / "x.npz", **arrays)
    assert expected in error(fid.load_reference, tmp_path / "x.npz", stub())


@pytest.mark.parametrize("shape", [(10**12, 4, 4, 3), (1, 10**6, 10**6, 3), (2, 4, 4, 3)])
def test_npz_headers_that_lie_are_refused_before_memory_is_taken(tmp_path, shape):
    path, header = tmp_path / "x.npz", {"descr": "|u1", "fortran_order": False, "shape": shape}
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, header)
        entry.write(b"0" * 7)
    assert "its header claims" in error(npz.image_shape, path)
    path.write_bytes(b"PK rubbish")
    assert "cannot read its arrays" in error(npz.names, path)


def test_figures_by_adms_conventions_and_by_ours():
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randint(0, 256, (2, 30, 3, 6, 6), generator=generator, dtype=torch.uint8)
    fake, labels = fake[:20] // 2 + 60, torch.arange(20) % 2
    adm, ours = stub(adm=True), stub(classes=2)
    known = fid.reference_of(adm, [real], 30, "these")
    a = fid.measure(adm, fake.split(6), labels, known, num_classes=2)
    (r, _), (f, probs) = adm(real), adm(fake)
    assert a["fid"] == pytest.approx(frechet_distance(r, f), rel=1e-6)
    assert (a["precision"], a["recall"]) == precision_recall(r, f)
    assert a["inception_score"] == pytest.approx(inception_score(probs, 5000))
    assert a["n"] == 20 and a["n_real"] == a["n_precision"] == 30 and "accuracy" not in a
    b = fid.measure(ours, fake.split(6), labels, known, num_classes=2)
    assert b["n_precision"] == 20 and b["frechet_stub"] == a["fid"]
    assert b["accuracy"] == float((probs.argmax(1) == labels).double().mean())
    assert sum(b["accuracy_per_class"]) / 2 == pytest.approx(b["accuracy"])
    assert "accuracy" not in fid.measure(ours, [fake], labels, known, num_classes=3)
    assert b == fid.measure(ours, fake.split(20), labels, known, num_classes=2)
    bare = dataclasses.replace(known, features=None, count=None)
    c = fid.measure(adm, [fake], labels, bare, num_classes=2)
    assert c["n_real"] == "unknown" and "precision" not in c and c["fid"] == a["fid"]
    with pytest.raises(ValueError, match="holds 8 samples of 9 features"):
        fid.measure(adm, [fake[:8]], labels[:8], known, num_classes=2)


# ----------------------------------------------------------------------------------------- command


def test_the_command_says_what_evaluated_what_against_what(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(evaluators.EVALUATORS, "stub", lambda: stub(adm=True))
    more = ("--classifier", "stub")
    assert cli.main(command(models, tmp_path, *more)) == 0
    row = rows(tmp_path / "rows.csv")[0]
    assert row["network"] == "the stub of the tests" and row["n"] == "12" and row["n_real"] == "9"
    assert row["reference"] == "9 test images of pictures, shorter side 1.125 x size, centre"
    assert float(row["fid"]) > 0
    own = next((tmp_path / "drawn").rglob("samples.npz"))  # as near to itself as can be
    again = (*more, "--reference", own, "--out", tmp_path / "again.csv")
    assert cli.main(command(models, tmp_path, *again)) == 0  # the same draw is not drawn again
    assert len(list((tmp_path / "drawn").iterdir())) == 1
    second = rows(tmp_path / "again.csv")[0]
    assert float(second["fid"]) < 1e-3 * float(row["fid"])
    assert second["reference"].startswith("samples.npz, checksum ")


@pytest.mark.parametrize("more, expected", [
    (["--per-class", "1"], "--per-class 1 holds 3 samples of 6 features, expected at least 6"),
    (["--limit", "5"], "5 test images of pictures holds 5 samples of 6 features"),
    (["--reference", "gone.npz"], "gone.npz: cannot read its arrays"),
    (["--classifier", "cifar10"], "reads 3 channels"),
    (["--classifier", "nobody"], "no classifier named 'nobody'"),
    (["--batch-size", "0"], "--batch-size is 0"),
    (["--cfg", "1.5", "-1"], "cfg is -1.0"),
    (["--top-p", "2"], "top_p is 2.0"),
    (["--seed", "-1"], "seed is -1"),
    (["--samples", f"{__file__}/new"], "cannot be written (Not a directory)"),
    (["--out", str(OTHER)], "other columns"),
])  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_drawn(
    models, tmp_path, capsys, monkeypatch, more, expected
):
    monkeypatch.setattr(evaluate, "draw_samples", None)  # nothing to be called
    assert cli.main(command(models, tmp_path, *more)) == 2
    err = capsys.readouterr().err
    assert err.startswith("varmini: error: ") and err.count("\n") == 1 and expected in err
    assert not list(tmp_path.iterdir())


def test_pictures_without_labels_are_no_reference(models, tmp_path, capsys):
    shutil.copytree(models / "pictures/val/0", tmp_path / "loose")
    assert cli.main(command(models, tmp_path, "--data", tmp_path / "loose")) == 2
    assert "no labelled pictures" in capsys.readouterr().err


def test_tokenizer_figures(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(evaluators.EVALUATORS, "stub", lambda: stub(adm=True))
    args = ["evaluate", "tokenizer", "--tokenizer", models / "tokenizer", "--data",
            models / "pictures", "--classifier"]  # fmt: skip
    assert cli.main([str(a) for a in (*args, "stub", "--out", tmp_path / "a.csv")]) == 0
    row = rows(tmp_path / "a.csv")[0]
    assert float(row["rfid"]) > 0 and "fid" not in row and "accuracy_real" not in row
    assert float(row["psnr_of_mean_mse"]) <= float(row["psnr"])
    own = (*args, models / "classifier", "--out", tmp_path / "b.csv")
    assert cli.main([str(a) for a in own]) == 0
    row = rows(tmp_path / "b.csv")[0]
    assert float(row["frechet_own_classifier"]) > 0 and 0 <= float(row["accuracy_real"]) <= 1
    capsys.readouterr()
    few = (*own, "--limit", "5")
    assert cli.main([str(a) for a in few]) == 2
    assert "pictures, test holds 5 samples of 6 features" in capsys.readouterr().err
