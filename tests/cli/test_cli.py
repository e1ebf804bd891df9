"""The `varmini` command: help, exit codes, errors, and each sub-command on toy models."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import make_tokenizer, make_var

from varmini import MultiScaleVQVAE, ScaleSchedule
from varmini.cli import evaluate
from varmini.cli import main as varmini_cli
from varmini.cli.models import caption, class_label
from varmini.runtime.tables import read_cells
from varmini.training import train_tokenizer, train_var
from varmini.training.classifier import Classifier, ClassifierConfig


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a tiny random tokenizer/, var/ and classifier/ for grey 32x32 images."""
    folder, sizes = tmp_path_factory.mktemp("models"), (1, 2, 4)
    tok = make_tokenizer(sizes=sizes, multipliers=(1,), patch=8, vocab_size=16)
    tok.save_pretrained(folder / "tokenizer")
    var = make_var(ScaleSchedule(sizes), num_classes=10, vocab_size=16)
    var.save_pretrained(folder / "var")
    Classifier(ClassifierConfig(image_channels=1, widths=(4, 8))
               ).save_pretrained(folder / "classifier")  # fmt: skip
    return folder


@pytest.fixture
def picture(tmp_path) -> Path:
    """A colour picture of odd size and odd name."""
    path = tmp_path / "a picture, ünd $more.PNG"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def error_of(capsys, *args: object) -> str:
    """Runs a command that must fail with exit code 2 and returns its one line of complaint."""
    assert varmini_cli.main([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("varmini: error: ")
    return err.removeprefix("varmini: error: ").strip()


def ok(*args: object) -> None:
    assert varmini_cli.main([str(a) for a in args]) == 0


def test_help_names_every_command(capsys):
    for name in varmini_cli.COMMANDS:
        *group, last = name.split()
        ok(*group, "-h")
        out, err = capsys.readouterr()
        assert f"\n    {last}" in out and err == ""
    ok("--version")
    assert capsys.readouterr().out == "varmini 0.1.0\n"


@pytest.mark.parametrize("name", varmini_cli.COMMANDS)
def test_help_of_each_command(name, capsys):
    ok(*name.split(), "--help")
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: varmini {name}") and err == ""
    if name not in ("data", "plan"):  # these write no file of one's choice
        assert "--out PATH" in out and out.count("(default: ") >= 3
    assert "Images a class." in out or name != "sample"  # the comments are its words


def test_help_of_training_shows_the_presets_defaults(capsys):
    shown = []
    for preset in ("fashion", "cifar10"):
        ok("train", "tokenizer", "--preset", preset, "--help")
        shown.append(" ".join(capsys.readouterr().out.replace("│", " ").split()))
    assert "(default: fashion-subset)" in shown[0] and "(default: cifar10)" in shown[1]
    assert "(default: runs/fashion/tokenizer)" in shown[0]
    assert "Images a step." in shown[0]


@pytest.mark.parametrize("word, code, told", [
    ("--help", 0, ""), ("smaple", 2, "invalid choice: 'smaple' (choose from 'demo', ")])
def test_module_runs_and_is_light_until_a_command_is_known(word, code, told):
    heavy = {"torch", "tyro", "matplotlib", "datasets", "PIL", "pyarrow", "ipywidgets"}
    program = (
        f"import runpy, sys\nsys.argv = ['varmini', {word!r}]\n"
        "try:\n    runpy.run_module('varmini', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        f"    print(stop.code, sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{code} []"
    assert told in done.stderr


@pytest.mark.parametrize("args, parts", [
    (["train", "tokenizer", "--preset", "fasion"], ["'fasion'", "fashion, cifar10"]),
    (["train", "tokenizer", "--preset=no"], ["'no'", "fashion, cifar10"]),
    (["sample", "--out", "grid.jpg"], ["grid.jpg", ".png"]),
    (["sample", "--n", "0"], ["--n is 0", "at least 1"]),
    (["sample", "--out", f"{__file__}/x/grid.png"], ["grid.png cannot be written", "Not a dir"]),
    (["scaling", "--csv", f"{__file__}/x.csv"], ["x.csv cannot be written", "Not a directory"]),
    (["compare", "--speed", "1", "--csv", f"{__file__}/x"], ["cannot be written", "Not a dir"]),
    (["zeroshot", "--out", f"{__file__}/x"], ["cannot be written", "Not a directory"]),
    (["sample", "--var", "nowhere"], ["'nowhere'", "folder"]),
    (["reconstruct"], ["no picture"]),
    (["reconstruct", "no\x1b[31m\udcff.png"], ["no\\x1b[31m\\udcff.png: ", "No such file"]),
    (["inpaint"], ["no picture"]),
    (["evaluate", "tokenizer", "--out", "row.txt"], ["row.txt", ".csv"]),
    (["data", "no-such-set"], ["no-such-set", "cifar10-subset"]),
], ids=range(14))  # fmt: skip
def test_a_bad_value_is_one_line_of_ours(args, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = error_of(capsys, *args)
    assert all(part in line for part in parts), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args, parts", [
    (["train", "tokenizer", "--bach-size", "3"], ["--bach-size", "--batch-size"]),
    (["train", "var", "--model.dpeth", "3"], ["--model.dpeth", "--model.depth"]),
    (["train", "var", "--batch-size", "many"], ["--batch-size", "many"]),
    (["train", "var", "--batch-size"], ["--batch-size"]),
    (["sample", "--zzz"], ["--zzz", "sample --help"]),
    (["sample", "cat"], ["cat"]),
    (["plan"], ["PRESET"]),
    ([], ["usage: varmini COMMAND", "varmini: error: the following arguments are required: COM"]),
    (["train"], ["usage: varmini train TARGET", "varmini: error: the following arguments are req"]),
    (["train", "tokeniser"], ["usage: varmini train TARGET", "'tokeniser' (choose", "'tokenizer'"]),
    (["sample", "--device"], ["usage: varmini sample", "--device: expected one argument"]),
], ids=range(11))  # fmt: skip
def test_a_bad_option_is_told_with_the_usage(args, parts, capsys):
    assert varmini_cli.main(args) == 2
    out, err = capsys.readouterr()
    assert out == "" and all(part in err for part in parts) and "Traceback" not in err


@pytest.mark.parametrize("error, code, text", [
    (ValueError("two\nlines"), 2, "two lines"), (KeyboardInterrupt(), 130, "Ctrl-C"),
    (OSError(28, "No space left on device"), 2, "No space left"), (SystemExit(143), 143, ""),
    (ModuleNotFoundError("no", name="pyarrow"), 2, "'pyarrow' is not installed"),
    (MemoryError(), 2, "memory ran out"),
    (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "), 2, "--workers"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "lower --batch-size"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, "lower --batch-size"),
    (ImportError("libx.so: failed to map segment from shared object"), 2, "memory ran out"),
    (KeyError("defect"), None, ""), (RuntimeError("defect"), None, "")])  # fmt: skip
def test_errors_from_inside(error, code, text, capsys, monkeypatch):
    """None: a defect of ours is not hidden."""

    def run(args):
        raise error

    monkeypatch.setattr(varmini_cli, "run", run)
    if code is None:
        with pytest.raises(type(error)):
            varmini_cli.main([])
        return
    assert varmini_cli.main([]) == code
    err = capsys.readouterr().err
    assert text in err and "Traceback" not in err


def test_training_gets_the_preset_the_overrides_and_the_tokenizer(
    monkeypatch, tmp_path, models, capsys
):
    calls = []

    def train(config, out, **how):
        calls.append((config, out, how))
        (tmp_path / "model.safetensors").write_bytes(b"x")
        return tmp_path

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_tokenizer, "train", train)
    monkeypatch.setattr(train_var, "train", train)
    ok("train", "tokenizer", "--preset", "cifar10", "--lr", "0.5", "--no-flip", "--resume",
       "--model.sizes", "1", "2", "4", "--perceptual-network", "")  # fmt: skip
    ok("train", "var", "--batch_size=7", "--out", "elsewhere", "--overwrite")
    assert "model.safetensors" in capsys.readouterr().out.splitlines()[-1]
    Path("runs/fashion").mkdir(parents=True)
    Path("runs/fashion/tokenizer").symlink_to(models / "tokenizer")
    ok("train", "var")
    (config, out, how), (var_config, var_out, var_how), (var_after, *_) = calls
    assert (config.data, config.lr, config.flip) == ("cifar10", 0.5, False)
    assert config.model.sizes == (1, 2, 4) and config.perceptual_network == ""
    assert out == Path("runs/cifar10/tokenizer") and how == {"resume": True, "overwrite": False}
    assert (var_config.batch_size, var_config.data) == (7, "fashion-subset")
    assert var_out == Path("elsewhere") and var_how == {"resume": False, "overwrite": True}
    tokenizers = [c.tokenizer for c in (var_config, var_after)]  # the one just trained, if any
    assert tokenizers == ["fashion", str(Path("runs/fashion/tokenizer"))]


def test_train_tokenizer_and_refuse_a_second_run(tmp_path, capsys):
    out = tmp_path / "run"
    args = ["train", "tokenizer", "--images", "32", "--batch-size", "16", "--held-out", "10",
            "--model.sizes", "1", "4", "--model.patch", "8", "--model.multipliers", "1",
            "--model.vocab-size", "16", "--out", str(out)]  # fmt: skip
    ok(*args)
    captured = capsys.readouterr()
    assert "tokenizer:" in captured.err  # the bar
    for name in ("config.json", "model.safetensors", "log.csv"):
        assert name in captured.out and (out / name).is_file()
    assert MultiScaleVQVAE.from_pretrained(out).schedule.sizes == (1, 4)
    before = (out / "model.safetensors").read_bytes()
    line = error_of(capsys, *args)
    assert str(out) in line and "--overwrite" in line and "--resume" in line
    assert (out / "model.safetensors").read_bytes() == before


def test_sample_writes_a_grid_and_refuses_to_replace_it(models, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # any folder will do
    out = Path("new place") / "grid.png"
    args = ["sample", "--var", models / "var", "--labels", "bag", "3", "none", "--n", "2", "--out"]
    ok(*args, out)
    assert capsys.readouterr().out == f"wrote {out}\n"
    first = out.read_bytes()
    assert Image.open(out).size[0] > 64
    line = error_of(capsys, *args, out)
    assert str(out) in line and "--overwrite" in line and out.read_bytes() == first
    ok(*args, tmp_path / "same.png")
    assert (tmp_path / "same.png").read_bytes() == first  # the same seed
    ok(*args, out, "--overwrite", "--seed", "1", "--cfg", "0", "--smooth")
    assert out.read_bytes() != first


@pytest.mark.parametrize("args, parts", [
    (["--labels", "bags"], ["'bags'", "'bag'"]), (["--labels", "10"], ["10", "0 to 9"]),
    (["--labels", "-1"], ["-1", "0 to 9"]), (["--cfg", "-1"], ["cfg", "-1"]),
    (["--top-p", "2"], ["top_p", "2"]), (["--seed", "-5"], ["seed", "-5"]),
    (["--tokenizer", "nowhere"], ["'nowhere'"])], ids=lambda v: "-".join(v).strip("-"))
def test_sample_with_bad_values(args, parts, models, tmp_path, capsys):
    line = error_of(capsys, "sample", "--var", models / "var", "--out", tmp_path / "x.png", *args)
    assert all(part in line for part in parts), line
    assert not (tmp_path / "x.png").exists()


def test_labels_by_name_or_number():
    names = ("Ankle boot", "Bag", "T - shirt / top", "7")
    words = ("bag", "ANKLE BOOT", "ankle-boot", "t-shirt/top", "0", "none", "7", "²")
    found = [class_label(word, names, 4) for word in words[:-1]]
    assert found == [1, 0, 0, 2, 0, 4, 3]
    assert [caption(i, names) for i in (1, 4)] == ["Bag", "no class"]
    with pytest.raises(ValueError, match="unknown class '²'"):
        class_label("²", names, 4)
    with pytest.raises(ValueError, match="class names are unknown"):
        class_label("bag", (), 2)


def test_reconstruct(models, picture, tmp_path, capsys):
    out = tmp_path / "r.png"
    ok("reconstruct", picture, picture, "--tokenizer", models / "tokenizer", "--out", out)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "dB from 21 tokens" in lines[0] and lines[-1] == f"wrote {out}"
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.read_bytes()[:100])
    line = error_of(capsys, "reconstruct", broken, "--tokenizer", models / "tokenizer",
                    "--out", tmp_path / "other.png")  # fmt: skip
    assert str(broken) in line and not (tmp_path / "other.png").exists()


def test_inpaint(models, picture, tmp_path, capsys):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), 8)).save(mask)
    args = ["inpaint", picture, "--var", models / "var", "--n", "2", "--label", "coat", "--out"]
    ok(*args, tmp_path / "mask-out.png", "--mask", mask)
    ok(*args, tmp_path / "box-out.png")
    ok(*args, tmp_path / "around.png", "--outside")
    pictures = [(tmp_path / f"{n}.png").read_bytes() for n in ("mask-out", "box-out", "around")]
    assert pictures[0] == pictures[1] != pictures[2]  # the mask is the default box
    ok(*args, tmp_path / "all.png", "--rule", "touched")
    assert (tmp_path / "all.png").read_bytes() != pictures[0]
    capsys.readouterr()
    line = error_of(capsys, *args, tmp_path / "no.png", "--box", "0.5", "0", "0.2", "1")
    assert "--box is 0.5 0 0.2 1" in line


def test_evaluate_appends_rows(models, tmp_path, capsys):
    out = tmp_path / "new" / "tokenizer.csv"
    args = ["evaluate", "tokenizer", "--tokenizer", models / "tokenizer", "--classifier",
            models / "classifier", "--limit", "20", "--out", out]  # fmt: skip
    ok(*args)
    ok(*args)
    printed = capsys.readouterr().out
    assert "psnr" in printed and printed.splitlines()[-1] == f"wrote {out}"
    rows = read_cells(out)
    assert len(rows) == 2 and rows[0]["psnr"] == rows[1]["psnr"] and rows[0]["n"] == "20"
    assert rows[0]["data"] == "fashion-subset" and float(rows[0]["usage_scales_3_share"]) > 0
    nested = {"usage": {"all": 1, "scales": [{"share": 0.5}]}}
    assert evaluate.flatten(nested) == {"usage_all": 1, "usage_scales_1_share": 0.5}


def test_data_lists_the_beds_and_describes_a_folder(capsys, monkeypatch, tmp_path, picture):
    monkeypatch.delenv("VARMINI_DATA", raising=False)
    ok("data")
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["fashion-subset"][1:4] == ["10000", "2000", "in"]
    assert rows["cifar10-subset"][1:4] == ["1000", "1000", "in"]
    assert "uoft-cs/cifar10" in rows["cifar10"]
    for name in ("apple", "pear"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            Image.open(picture).save(tmp_path / "set" / name / f"{i}.png")
    ok("data", tmp_path / "set")
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "set, train: 4 images of 3 channels, 40 pixels a side, 2 classes"
    assert out[1].split() == ["0", "apple", "2"] and out[3].startswith("set, test: 2 images")
