"""Rubbish in: spoiled files, each ending well or in one ValueError of ours.

The cases run in forked children under limits of memory and time; what a child died of is known from
the number of the case it had begun.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_pictures import encode, write_parquet
from tiny import make_tokenizer, make_var
from toy_world import image_set

import varmini
from varmini import VAR, MultiScaleVQVAE, ScaleSchedule
from varmini.cli import draw
from varmini.data import load_images
from varmini.evaluation import evaluators, fid
from varmini.grade.submission import read_submission
from varmini.official import load_official, to_official
from varmini.plots import charts
from varmini.runtime.tables import append_row, read_rows
from varmini.training import checkpoint, run_folder, token_sets
from varmini.training.classifier import Classifier, ClassifierConfig
from varmini.training.presets import preset

from .mutations import spoil, spoil_json, spoil_safetensors
from .table import Tried

SECONDS, MEMORY, BATCH = 20, 1 << 30, 250
"""Allowed to a case: processor time, and bytes on top of what is mapped before; cases a child."""
PACKAGE = str(Path(varmini.__file__).parent)


@dataclass
class Target:
    """Something that reads what others wrote."""

    name: str
    share: float
    """Of all cases."""
    originals: list[Path]
    spoil: Callable
    read: Callable[[Path], object]
    """Called with the spoiled file, which lies where the original was, in a folder of its own."""


class TooSlow(BaseException):
    """A case took longer than SECONDS."""


# ------------------------------------------------------------------------------------------ targets


def targets(folder: Path) -> list[Target]:
    """Writes an honest file of every kind, and says how each is read."""
    torch.manual_seed(0)
    tok = make_tokenizer(sizes=(1, 2), vocab_size=24)
    var = make_var(ScaleSchedule((1, 2)), vocab_size=24, depth=1, width=16)
    evaluator = Classifier(ClassifierConfig(image_channels=1, num_classes=3, widths=(2, 3))).eval()
    models = {"tokenizer": tok, "var": var, "classifier": evaluator}
    saved = [m.save_pretrained(folder / "tok" / kind) for kind, m in models.items()]
    weights, configs = ([f / name for f in saved] for name in ("model.safetensors", "config.json"))

    def model(path: Path) -> None:
        # Sizes that no machine holds end in torch's own error, or never.
        if not re.search(r"\d{5}", (path.parent / "config.json").read_text(errors="replace")):
            type(models[path.parent.name]).from_pretrained(path.parent)

    def reference(path: Path) -> None:
        fid.load_reference(path, evaluators.classifier_evaluator(str(saved[2])))

    def official(path: Path) -> None:
        vae, other = (path, None) if path.name.startswith("vae") else (None, path)
        load_official(vae, other, sizes=(1, 2))

    return [
        Target("model.safetensors", 0.14, weights, spoil_safetensors, model),
        Target("config.json", 0.17, configs, spoil_json, model),
        Target("picture", 0.20, pictures(folder), spoil,
               lambda path: draw.read_images([path], tok)),
        Target("parquet", 0.10, [parquet(folder / "fashion" / "train.parquet")], spoil,
               lambda path: load_images("fashion", "train", root=folder)),
        cache(folder / "cache", tok),
        *logs(folder / "run", tok),
        Target("notebook handed in", 0.10, [notebook(folder / "nb" / "a.ipynb")], spoil_json,
               read_submission),
        Target("official checkpoint", 0.05, officials(folder / "official", var), spoil, official),
        Target("reference .npz", 0.05, references(folder / "npz", evaluator), spoil, reference),
    ]  # fmt: skip


def pictures(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    (folder / "pictures").mkdir()
    modes = {"a.png": "RGBA", "b.jpg": "RGB", "c.gif": "P", "d.webp": "RGB", "e.bmp": "RGB",
             "f.tiff": "L", "g.ppm": "RGB", "h.png": "I;16", "i.png": "1", "j.tiff": "CMYK",
             "k.tiff": "F"}  # fmt: skip
    for name, mode in modes.items():
        image = Image.fromarray(pixels)
        image = image.convert("L") if mode == "I;16" else image
        image.convert(mode).save(folder / "pictures" / name)
    return [folder / "pictures" / name for name in modes]


def parquet(path: Path) -> Path:
    cells = [encode(np.full((28, 28), 40 * i, np.uint8)) for i in range(3)]
    return write_parquet(path, cells, [0, 1, 2], "abc")


def cache(folder: Path, tok: MultiScaleVQVAE) -> Target:
    """Token maps on disk: a spoiled shard is made anew, so the tokens are always the true ones."""

    def tokens(path: Path) -> torch.Tensor:
        data = token_sets.token_set(tok, "x", image_set("toy", "test"), path, "train", flip=True,
                                    shard=3)  # fmt: skip
        return torch.cat([data.rows(torch.arange(7), kind) for kind in (0, 1)])

    wanted = tokens(folder)

    def read(path: Path) -> None:
        if not tokens(path.parent).equal(wanted):
            raise AssertionError("the tokens of a spoiled cache are not the true ones")

    shards = sorted(folder.glob("*.safetensors"))
    return Target("token cache", 0.05, shards, spoil_safetensors, read)


def logs(folder: Path, tok: MultiScaleVQVAE) -> list[Target]:
    config, row = preset("fashion").var, {"var": "x", "fid": 1.5}
    folder.mkdir()
    run = run_folder.Run(folder, config, kind="var")
    for step in (10, 20):
        run.log(step, 8 * step, {"loss": 1.0 / step, "val_loss": 2.0, "psnr": None})
        checkpoint.save(folder / "state", step, {"model": tok})
    append_row(folder / "rows.csv", row)

    def log(path: Path) -> None:
        charts.read_log(path)
        run_folder.Run(path.parent, config, start_step=20).log(30, 240, {"loss": 0.1})

    def resume(path: Path) -> None:
        run = path.parent.parent if path.name == "index.json" else path.parent
        run_folder.check_folder(run, config, overwrite=False, resume=True)
        if checkpoint.restore(run / "state", {"model": tok}) not in (10, 20):
            raise AssertionError("a checkpoint that is none was restored")
        run_folder.Run(run, config, start_step=20)

    return [
        Target("CSV log", 0.07, [folder / "log.csv"], spoil, log),
        Target("CSV table", 0.05, [folder / "rows.csv"], spoil,
               lambda path: (read_rows(path), append_row(path, row))),
        Target("run.json, index.json", 0.02,
               [folder / "run.json", folder / "state" / "index.json"], spoil_json, resume),
    ]  # fmt: skip


def notebook(path: Path) -> Path:
    path.parent.mkdir()
    cell = {"cell_type": "code", "metadata": {"tags": ["a"]}, "source": ["x = 1\n", "y = 2"],
            "outputs": [], "execution_count": None}  # fmt: skip
    text = {"cell_type": "markdown", "metadata": {}, "source": "words"}
    whole = {"cells": [cell, text, cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(whole))
    return path


def officials(folder: Path, var: VAR) -> list[Path]:
    folder.mkdir()
    unfolded = make_tokenizer(sizes=(1, 2), vocab_size=24, patch=1, attention=True)
    for name, state in zip(("vae", "var"), to_official(unfolded, var)):
        torch.save(state, folder / f"{name}.pth")
        torch.save(state, folder / f"{name}-old.pth", _use_new_zipfile_serialization=False)
    return sorted(folder.iterdir())


def references(folder: Path, evaluator: Classifier) -> list[Path]:
    folder.mkdir()
    d = evaluator.config.widths[-1]
    np.savez(folder / "stats.npz", mu=np.zeros(d), sigma=np.eye(d))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez_compressed(folder / "images.npz", arr_0=pixels)
    return sorted(folder.iterdir())


# -------------------------------------------------------------------------------------------- cases


def one_case(target: Target, number: int, seed: int) -> str:
    """Spoils a file and reads it; an empty text, or what was wrong with the end."""
    rng = random.Random(f"{seed} {target.name} {number}")
    path = rng.choice(target.originals)
    before = {p: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    spoiled = before | {path: target.spoil(before[path], rng)}
    path.write_bytes(spoiled[path])
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.read(path)
        return ""
    except ValueError as error:
        inside = traceback.extract_tb(error.__traceback__)[-1].filename
        if "\n" in str(error) or not str(error):
            return f"not one line: {str(error)[:300]!r}"
        if any(not p.exists() or p.read_bytes() != content for p, content in spoiled.items()):
            return "refused, but changed a file"
        return "" if inside.startswith(PACKAGE) else f"of {inside}: {str(error)[:300]}"
    except TooSlow:
        return f"longer than {SECONDS} s"
    except BaseException as error:  # noqa: B902  the very question
        where = traceback.extract_tb(error.__traceback__)
        own = [f for f in where if f.filename.startswith(PACKAGE)][-1:]
        return f"{type(error).__name__}: {str(error)[:300]} at {own}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        for p, content in before.items():
            p.write_bytes(content)


def child(target: Target, numbers: range, seed: int, out: Path) -> None:
    """Runs some cases in this process; writes each one's number before it, and how it failed."""

    def slow(*_):
        raise TooSlow

    signal.signal(signal.SIGPROF, slow)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with open(out, "w", buffering=1) as file:
        for number in numbers:
            file.write(f"{number}\n")
            if text := one_case(target, number, seed):
                file.write(json.dumps(text) + "\n")


def throw_rubbish(seed: int, cases: int) -> list[Tried]:
    """About `cases` spoiled inputs, shared among the targets."""
    lines = []
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for target in targets(Path(place)):
            lines.append(one_target(target, seed, max(1, round(cases * target.share))))
            lines[-1].say()
    return lines


def one_target(target: Target, seed: int, cases: int) -> Tried:
    line = Tried("rubbish", f"spoiled {target.name}", seed=seed)
    line.note, found = f"{len(target.originals)} originals", Path("failures")
    while line.tried < cases:
        numbers = range(line.tried, min(line.tried + BATCH, cases))
        process = os.fork()
        if not process:
            try:
                child(target, numbers, seed, found)
                os._exit(0)
            except BaseException:  # noqa: B902
                traceback.print_exc()
                os._exit(1)
        code, number = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), numbers.start
        for told in map(json.loads, found.read_text().splitlines()):
            number = told if isinstance(told, int) else number
            if isinstance(told, str):
                line.fail(f"case {number}: {told}")
        line.tried = numbers.stop
        if code:
            line.fail(f"case {number}: the process ended with {code}")
            line.tried = number + 1
    return line
