"""The section of results/README.md on likelihoods: classifier, strangers, best of several draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from wording import NOT_MEASURED, provenance, table

from varmini.evaluation.statistics import holm, welch
from varmini.experiments.zero_shot.likelihood import wilson
from varmini.runtime.tables import Row, rows_of

WAYS = {
    "first": "one draw, no choice",
    "likelihood": "best of {n} by log p(tokens given class)",
    "margin": "best of {n} by what the class explains",
    "classifier": "best of {n} by a classifier",
    "guidance": "one draw with guidance 1.5",
}


def likelihood(folder: Path, figures: Path) -> str:
    """What a model's likelihood is good for."""
    folder, text = folder / "likelihood", "## Likelihood: classes, strangers, second thoughts\n\n"
    parts = (("classifier", classifier), ("strangers", strangers), ("choice", choice),
             ("beam", beam))  # fmt: skip
    tables = {name: rows_of(folder / f"{name}.csv") for name, _ in parts}
    tables["classifier"] += rows_of(folder / "equal.csv")
    if not any(tables.values()):
        return text + f"{NOT_MEASURED}: run `python scripts/evidence/likelihood.py`\n"
    for name, write in parts:
        text += write(tables[name]) if tables[name] else f"{name}: {NOT_MEASURED}\n\n"
    return text + provenance([row for rows in tables.values() for row in rows])


def classifier(rows: Sequence[Row]) -> str:
    """Accuracy of the likelihood, a scale each, beside a classifier."""
    text = "The class under which an image's tokens are likeliest, argmax of log p(tokens given "
    text += "class), on test images: accuracy in per cent with 95 % intervals (Wilson), from the "
    text += "tokens of one scale alone and of all scales up to it. FLOPs count the encoder and a "
    text += "pass for each class. Trained to classify: the shipped network, from 60,000 and 50,000 "
    text += "images. Of equal size: a network with as many parameters as the VAR, trained on as "
    text += "many draws from the same 10,000 images; the mean of its seeds, its interval that of "
    text += "the test images.\n\n"
    heads = ("bed", "n", "scale", "alone", "up to it", "passes", "GFLOPs", "parameters")
    cells = []
    for bed in dict.fromkeys(r["bed"] for r in rows):
        of = {(r["which"], r["scale"]): r for r in rows if r["bed"] == bed and "scale" in r}
        for (which, scale), r in of.items():
            if which != "alone":
                one = share(of["alone", scale]) if which == "up to" else ""
                name = scale if which == "up to" else which
                cells.append([bed, f"{r['n']:,}", str(name), one, share(r), str(r["passes"]),
                              f"{r['gflops']:.3f}", f"{r['parameters'] / 1e6:.2f} M"])  # fmt: skip
        if equal := [r for r in rows if r["bed"] == bed and r["which"] == "of equal size"]:
            r, told = equal[0], [100 * r["accuracy"] for r in equal]
            low, high = wilson(round(fmean(told) / 100 * r["n"]), r["n"])
            mean = {"accuracy": fmean(told) / 100, "low": low, "high": high}
            seeds = f"{len(told)} seeds, {min(told):.1f} to {max(told):.1f}"
            cells.append([bed, f"{r['n']:,}", f"of equal size ({seeds})", "", share(mean),
                          str(r["passes"]), f"{r['gflops']:.3f}",
                          f"{r['parameters'] / 1e6:.2f} M"])  # fmt: skip
    return text + table(heads, cells) + "\n"


def share(row: Row) -> str:
    """Accuracy and its interval, in per cent."""
    return f"{100 * row['accuracy']:.1f} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"


def strangers(rows: Sequence[Row]) -> str:
    """How well log p tells images of another kind."""
    scales = sorted(name for name in rows[0] if name.startswith("auroc_"))
    text = f"How well log p, without a class, tells other images from {rows[0]['n']:,} test images "
    text += "of the Fashion-MNIST model: AUROC, 1 apart, 0.5 chance, below it the strangers are "
    text += "the likelier ones; by all tokens and by those of one scale.\n\n"
    heads = ("images", "mean log p, nats", "AUROC", *(f"scale {s[6:]}" for s in scales))
    cells = [[r["set"], f"{r['nats']:.1f}", f"{r['auroc']:.3f}", *(f"{r[s]:.3f}" for s in scales)]
             for r in rows]  # fmt: skip
    return text + table(heads, cells) + "\n"


def choice(rows: Sequence[Row]) -> str:
    """Best of several draws, and what it does to diversity."""
    kept, n = rows[0]["kept"], max(r["draws"] for r in rows)
    seeds, evaluator = len({r["seed"] for r in rows}), rows[0]["evaluator"]
    text = f"Drawing with a second thought on Fashion-MNIST: {kept} images kept, {seeds} seeds; "
    text += f"the evaluator ({evaluator}) chose nothing. Changes are against one draw, with "
    text += "Welch's interval; p-values adjusted for the whole table (Holm).\n\n"
    heads = ("way", "own class", "Frechet distance", "change", "p", "precision", "recall",
             "change", "p")  # fmt: skip
    others = [way for way in WAYS if way != "first"]
    runs = {way: [r for r in rows if r["way"] == way] for way in WAYS}
    found = {(way, m): welch(*([r[m] for r in runs[w]] for w in (way, "first")))
             for way in others for m in ("frechet", "recall")}  # fmt: skip
    adjusted = dict(zip(found, holm([d.p for d in found.values()])))
    cells = []
    for way, name in WAYS.items():
        told = {m: [""] * 2 if way == "first" else change(found[way, m], adjusted[way, m])
                for m in ("frechet", "recall")}  # fmt: skip
        of = {m: over_seeds([r[m] for r in runs[way]]) for m in
              ("accuracy", "frechet", "precision", "recall")}  # fmt: skip
        cells.append([name.format(n=n), of["accuracy"], of["frechet"], *told["frechet"],
                      of["precision"], of["recall"], *told["recall"]])  # fmt: skip
    return text + table(heads, cells) + "\n"


EQUAL = {"short beam": "best of 4", "long beam": "best of 8"}
"""What a beam is compared with: best of n, at the same cost."""
MEASURED = {"accuracy": "own class", "frechet": "Frechet distance", "recall": "recall",
            "spread": "spread"}  # fmt: skip


def beam(rows: Sequence[Row]) -> str:
    """A beam over scales beside best of n at the same number of tokens drawn."""
    first, seeds = rows[0], len({r["seed"] for r in rows})
    text = "Choosing after the first scales already, on Fashion-MNIST: eight candidates at each "
    text += "of the first three scales, of which two go on, by the likelihood of the tokens so far "
    text += "or by a classifier that looks at the picture decoded so far. The short beam goes on "
    text += "with one of them after three scales, the long beam draws eight last maps, too. "
    text += f"{first['kept']} images kept, {seeds} seeds; the evaluator ({first['evaluator']}) "
    text += "chose nothing. Spread: mean distance between two images of a class in its features, "
    text += f"{first['real_spread']:.2f} for as many test images.\n\n"
    runs = {}
    for r in rows:
        runs.setdefault((r["way"], r["by"]), []).append(r)
    heads = ("way", "chosen by", "tokens drawn", *MEASURED.values())
    cells = [[way, by, str(of[0]["tokens"]), *(over_seeds([r[m] for r in of]) for m in MEASURED)]
             for (way, by), of in runs.items()]  # fmt: skip
    text += table(heads, cells)
    pairs = {(way, by): (of, runs[EQUAL[way], by]) for (way, by), of in runs.items()
             if way in EQUAL}  # fmt: skip
    found = {(pair, m): welch(*([r[m] for r in side] for side in sides))
             for pair, sides in pairs.items() for m in MEASURED}  # fmt: skip
    adjusted = dict(zip(found, holm([d.p for d in found.values()])))
    text += "\nThe same as differences from best of n at equal cost, with Welch's interval; "
    text += "p-values adjusted for the whole table (Holm).\n\n"
    heads = ("beam", "chosen by", *(h for name in MEASURED.values() for h in (name, "p")))
    cells = [[f"{way} against {EQUAL[way]}", by]
             + [cell for m in MEASURED
                for cell in change(found[(way, by), m], adjusted[(way, by), m])]
             for way, by in pairs]  # fmt: skip
    return text + table(heads, cells) + "\n"


def over_seeds(values: Sequence[float]) -> str:
    """Mean and standard error over seeds."""
    return f"{fmean(values):.3f} ± {stdev(values) / len(values) ** 0.5:.3f}"


def change(found, p: float) -> list[str]:
    """A difference with its interval, and its adjusted p-value."""
    if not found.enough:
        return [f"{found.value:+.2f}", "undecided"]
    return [f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})", f"{p:.2g}"]
