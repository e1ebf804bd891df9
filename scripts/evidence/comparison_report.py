"""The comparison and the ablation as tables and a figure, made from their CSV files alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import report_figures

from varmini.evaluation.statistics import ENOUGH, holm, welch
from varmini.experiments.comparison.methods import ABLATION, DRAWINGS, LONG
from varmini.plots.images import save
from varmini.runtime.tables import (
    NOT_MEASURED,
    Row,
    error_of,
    number,
    provenance,
    rows_of,
    table,
    with_error,
    write_rows,
)

QUALITY = ("frechet", "accuracy", "precision", "recall")
PAPER_SPEED = {"raster AR, cache": 20, "raster AR, no cache": 20, "DiT, DDIM 250": 45}
"""How many times as long as VAR, as published. Whether its raster AR had a cache is not told."""
PAPER_FID = (18.65, 5.22, 4.95, 4.64, 3.60, 3.30)
"""Of the rows of `ABLATION`: VAR, table 3."""
NOT_YET = f"{NOT_MEASURED}: run `varmini compare train`, `measure` and `speed`\n"


def _means(rows: Sequence[Row]) -> Row:
    """Mean and error over seeds of every measure of quality."""
    row: Row = {}
    for key in QUALITY:
        row |= {key: mean(r[key] for r in rows), f"{key}_se": error_of(rows, key)}
    return row


def comparison_rows(quality: list[Row], cost: list[Row], speed: list[Row]) -> list[Row]:
    """A row for every way of drawing: cost, milliseconds, ratios to VAR, and quality with `_se`.

    quality, cost, speed: the rows of the tables that `varmini compare` writes.
    """
    found: list[Row] = []
    for d in DRAWINGS:
        row = {"name": d.name} | next(r for r in cost if r["drawing"] == d.name)
        for batch in sorted({r["batch"] for r in speed}):
            of = [r for r in speed if (r["drawing"], r["batch"]) == (d.name, batch)]
            row[f"ms_{batch}"] = median(r["ms_an_image"] for r in of)
        own = found[0] if found else row
        row |= {f"{k}_ratio": row[k] / own[k] for k in ("ms_1", "ms_16", "flops", "steps")}
        # With and without a cache a method draws the same pictures.
        name, groups = d.name if d.name == LONG else d.method, {}
        for r in quality:
            if (r["method"], r["filtered"]) == (name, "True"):
                groups.setdefault(r["guidance"], []).append(r)
        best = min(groups, key=lambda g: mean(r["frechet"] for r in groups[g]))
        found.append(row | {"guidance": best} | _means(groups[best]))
    return found


def _cells(r: Row) -> list[str]:
    times = [f"{r[f'ms_{b}']:.1f} ({r[f'ms_{b}_ratio']:.2f})" for b in (1, 16)]
    flops = [number(r[k] / 1e9) for k in ("flops", "training_flops")]
    quality = [with_error([r], k, *((1, 100) if k == "accuracy" else (2,))) for k in QUALITY]
    return [r["name"], f"{r['parameters'] / 1e6:.2f} M", str(r["steps"]), *flops, *times,
            number(r["guidance"], 1), *quality]  # fmt: skip


def _claims(rows: Sequence[Row]) -> str:
    """The paper's ratios of time, what was found here, and what it comes from."""
    cells = []
    for r in rows[1:]:
        ratios = [number(r[f"{k}_ratio"]) for k in ("ms_1", "ms_16", "flops")]
        less = "fewer steps alone" if r["flops_ratio"] <= 1 else "fewer steps and fewer FLOPs"
        cells.append([r["name"], str(PAPER_SPEED.get(r["name"], "")), *ratios,
                      number(r["steps_ratio"], 1), less])  # fmt: skip
    heads = ("to VAR", "time in the paper", "time here, batch 1", "batch 16", "FLOPs", "steps",
             "VAR leads by")  # fmt: skip
    return (
        "The paper's claims of speed (its table 1: ImageNet, on a GPU; it does not tell whether "
        "its raster AR had a key-value cache) and the ratios here:\n\n"
        + table(heads, cells)
        + "\nWhere time follows the steps rather than the FLOPs, VAR wins by being parallel, not "
        "by computing less.\n\n"
    )


def _training(quality: list[Row], grid: list[Row]) -> str:
    """On how much each method was trained, and at which of the learning rates that were tried."""
    seeds, rates = len({r["seed"] for r in quality}), sorted({r["lr"] for r in grid})
    best = {name: min((r for r in grid if r["method"] == name), key=lambda r: r["val_loss"])["lr"]
            for name in dict.fromkeys(r["method"] for r in grid)}  # fmt: skip
    text = f"Every method saw {quality[0]['images']:,} images, with each of {seeds} seeds. "
    text += f"Learning rates tried, in runs of {grid[0]['images']:,} images: "
    text += f"{', '.join(f'{lr:g}' for lr in rates)}; best: "
    text += ", ".join(f"{name} {lr:g}" for name, lr in best.items())
    if at_end := [name for name, lr in best.items() if lr == rates[-1]]:
        text += f" (the largest, so a larger one might do better, for {', '.join(at_end)})"
    return text + ". "


def comparison(folder: Path, figures: Path) -> str:
    """The table of the comparison (kept as table.csv), the autoencoders' bound, and the plot."""
    folder, text = folder / "comparison", "## VAR beside raster AR, MaskGIT and DiT\n\n"
    names = ("quality", "cost", "speed", "grid", "autoencoders")
    quality, cost, speed, grid, bound = (rows_of(folder / f"{name}.csv") for name in names)
    if not (quality and cost and speed and grid and bound):
        return text + NOT_YET
    rows = comparison_rows(quality, cost, speed)
    write_rows(folder / "table.csv", rows)
    heads = ("method", "parameters", "sequential steps", "GFLOPs an image", "GFLOPs to train",
             "ms, batch 1 (to VAR)", "ms, batch 16 (to VAR)", "guidance", "Frechet distance",
             "own class, %", "precision", "recall")  # fmt: skip
    text += table(heads, [_cells(r) for r in rows]) + "\n" + _training(quality, grid)
    text += (
        "Frechet distance, precision and recall are in the features of our own classifier: they "
        "are not FID. Errors are standard errors: over training seeds, but no less than that of "
        "sampling (jackknife). FLOPs to train are those of one image, forward and backward; VAR's "
        "are more because it learns the tokens of all its maps. FLOPs and milliseconds of drawing "
        "are with guidance, milliseconds with the decoder, as the median of rounds in which all "
        "methods took turns. Quality is at the guidance of the lowest distance among those tried; "
        "all are in quality.csv.\n\n"
    )
    save(report_figures.comparison(rows, PAPER_SPEED), figures / "comparison.png")
    text += _claims(rows) + "![comparison](figures/comparison.png)\n\n"
    text += "![samples](comparison/samples.png)\n\n"
    text += "What the autoencoders leave to win, as many test images:\n\n"
    heads = ("autoencoder", "PSNR, dB", "Frechet distance", "own class, %")
    text += table(heads, [[r["autoencoder"], number(r["psnr"], 1) if "psnr" in r else "",
                           with_error([r], "frechet"), with_error([r], "accuracy", 1, 100)]
                          for r in bound]) + "\n"  # fmt: skip
    return text + provenance([*quality, *cost, *speed])


def ablation(folder: Path, figures: Path) -> str:
    """The paper's ablation at toy scale (kept as ablation.csv), each row against the one before."""
    text, rows = "## Ablation\n\n", rows_of(folder / "comparison" / "quality.csv")
    if not rows:
        return text + NOT_YET
    runs = [[r for r in rows if (r["method"], r["guidance"], r["filtered"]) == setting.key]
            for _, setting in ABLATION]  # fmt: skip
    steps = [welch(*([r["frechet"] for r in side] for side in (now, before)))
             for before, now in pairwise(runs)]  # fmt: skip
    adjusted, cells, kept = holm([step.p for step in steps]), [], []
    for i, ((name, _), fid, those) in enumerate(zip(ABLATION, PAPER_FID, runs)):
        change = decided = ""
        if i:
            step, p = steps[i - 1], adjusted[i - 1]
            change = f"{step.value:+.2f} ({step.low:+.2f} to {step.high:+.2f})"
            decided = f"{p:.2g}" if step.enough else "undecided"
        about = {k: those[0][k] for k in ("command", "commit", "hardware", "date")}
        kept.append({"row": name, "seeds": len(those), "paper": fid} | about | _means(those))
        cells.append([name, with_error(those, "frechet"), change, decided,
                      *(with_error(those, m) for m in ("precision", "recall")),
                      with_error(those, "accuracy", 1, 100), str(len(those)),
                      f"{fid:.2f}"])  # fmt: skip
    write_rows(folder / "comparison" / "ablation.csv", kept)
    heads = ("row", "Frechet distance", "change (95 %)", "p (Holm)", "precision", "recall",
             "own class, %", "seeds", "paper's FID")  # fmt: skip
    return text + table(heads, cells) + (
        "\nErrors as above; changes with Welch's interval over seeds, p-values adjusted for the "
        f"whole table. With fewer than {ENOUGH} seeds a side a change is undecided, however large "
        "it looks. One budget of training images a row.\n"
    )  # fmt: skip
