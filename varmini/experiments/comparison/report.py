"""The comparison and the ablation as tables and a figure, made from their CSV files alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

from ...evaluation.statistics import ENOUGH, holm, welch
from ...plots.images import save
from ...runtime.tables import (
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
from .. import figures as result_plots
from .methods import ABLATION, DRAWINGS, LONG

QUALITY = ("frechet", "accuracy", "precision", "recall")
PAPER_SPEED = {"raster AR, cache": 20, "raster AR, no cache": 20, "DiT, DDIM 250": 45}
"""How many times as long as VAR, as published. Whether its raster AR had a cache is not told."""
PAPER_FID = (18.65, 5.22, 4.95, 4.64, 3.60, 3.30)
"""Of the rows of `ABLATION`: VAR, table 3."""


def _best(rows: Sequence[Row]) -> tuple[float | None, list[Row]]:
    """The guidance with the lowest mean Frechet distance, and its rows."""
    groups = {g: [r for r in rows if r["guidance"] == g] for g in {r["guidance"] for r in rows}}
    if not groups:
        return None, []
    best = min(groups, key=lambda g: mean(r["frechet"] for r in groups[g]))
    return best, groups[best]


def comparison_rows(folder: Path) -> list[Row]:
    """A row for every way of drawing: cost, milliseconds, ratios to VAR, and quality with `_se`."""
    quality, cost = rows_of(folder / "quality.csv"), rows_of(folder / "cost.csv")
    speed, found = rows_of(folder / "speed.csv"), []
    for d in DRAWINGS:
        row: Row = {"name": d.name}
        row |= next((r for r in cost if r["drawing"] == d.name), {})
        for batch in sorted({r["batch"] for r in speed}):
            of = [r for r in speed if (r["drawing"], r["batch"]) == (d.name, batch)]
            if of:
                row[f"ms_{batch}"] = median(r["ms_an_image"] for r in of)
        own = found[0] if found else row
        for key in ("ms_1", "ms_16", "flops", "steps"):
            if key in row and key in own:
                row[f"{key}_ratio"] = row[key] / own[key]
        # With and without a cache a method draws the same pictures.
        method = d.name if d.name == LONG else d.method
        guidance, best = _best([r for r in quality if (r["method"], r["filtered"])
                                == (method, "True")])  # fmt: skip
        if best:
            row["guidance"] = guidance
            for key in QUALITY:
                row[key], row[f"{key}_se"] = mean(r[key] for r in best), error_of(best, key)
        found.append(row)
    return found


def _cells(r: Row) -> list[str]:
    times = [f"{r[f'ms_{b}']:.1f} ({r[f'ms_{b}_ratio']:.2f})" if f"ms_{b}_ratio" in r
             else NOT_MEASURED for b in (1, 16)]  # fmt: skip
    parameters = f"{r['parameters'] / 1e6:.2f} M" if "parameters" in r else NOT_MEASURED
    flops = [number(r[k] / 1e9) if k in r else NOT_MEASURED for k in ("flops", "training_flops")]
    quality = [with_error([r], k, *((1, 100) if k == "accuracy" else (2,))) if k in r
               else NOT_MEASURED for k in QUALITY]  # fmt: skip
    guidance = number(r.get("guidance"), 1)
    return [r["name"], parameters, str(r.get("steps", NOT_MEASURED)), *flops, *times, guidance,
            *quality]  # fmt: skip


def _claims(rows: Sequence[Row]) -> str:
    """The paper's ratios of time, what was found here, and what it comes from."""
    cells = []
    for r in rows[1:]:
        if all(f"{k}_ratio" in r for k in ("ms_1", "ms_16", "flops", "steps")):
            claim = str(PAPER_SPEED.get(r["name"], ""))
            ratios = [number(r[f"{k}_ratio"]) for k in ("ms_1", "ms_16", "flops")]
            less = "fewer steps alone" if r["flops_ratio"] <= 1 else "fewer steps and fewer FLOPs"
            cells.append([r["name"], claim, *ratios, number(r["steps_ratio"], 1), less])
    if not cells:
        return ""
    heads = ("to VAR", "time in the paper", "time here, batch 1", "batch 16", "FLOPs", "steps",
             "VAR leads by")  # fmt: skip
    return (
        "The paper's claims of speed (its table 1: ImageNet, on a GPU; it does not tell whether "
        "its raster AR had a key-value cache) and the ratios here:\n\n"
        + table(heads, cells)
        + "\nWhere time follows the steps rather than the FLOPs, VAR wins by being parallel, not "
        "by computing less.\n\n"
    )


def _training(folder: Path) -> str:
    """On how much each method was trained, and at which of the learning rates that were tried."""
    quality, grid = rows_of(folder / "quality.csv"), rows_of(folder / "grid.csv")
    text = ""
    if quality:
        seeds = len({r["seed"] for r in quality})
        text += f"Every method saw {quality[0]['images']:,} images, with each of {seeds} seeds. "
    if grid:
        rates = sorted({r["lr"] for r in grid})
        best = {name: min((r for r in grid if r["method"] == name), key=lambda r: r["val_loss"])
                for name in dict.fromkeys(r["method"] for r in grid)}  # fmt: skip
        text += f"Learning rates tried, in runs of {grid[0]['images']:,} images: "
        text += f"{', '.join(f'{lr:g}' for lr in rates)}; best: "
        text += ", ".join(f"{name} {row['lr']:g}" for name, row in best.items())
        if at_end := [name for name, row in best.items() if row["lr"] == rates[-1]]:
            text += f" (the largest, so a larger one might do better, for {', '.join(at_end)})"
        text += ". "
    return text


def comparison(folder: Path, figures: Path) -> str:
    """The table of the comparison (kept as table.csv), the autoencoders' bound, and the plot."""
    folder = folder / "comparison"
    text = "## VAR beside raster AR, MaskGIT and DiT\n\n"
    rows = comparison_rows(folder)
    if not any(len(r) > 1 for r in rows):
        return text + f"{NOT_MEASURED}: run `varmini compare train`, `measure` and `speed`\n"
    write_rows(folder / "table.csv", rows)
    heads = ("method", "parameters", "sequential steps", "GFLOPs an image", "GFLOPs to train",
             "ms, batch 1 (to VAR)", "ms, batch 16 (to VAR)", "guidance", "Frechet distance",
             "own class, %", "precision", "recall")  # fmt: skip
    text += table(heads, [_cells(r) for r in rows]) + "\n"
    text += _training(folder)
    text += (
        "Frechet distance, precision and recall are in the features of our own classifier: they "
        "are not FID. Errors are standard errors: over training seeds, but no less than that of "
        "sampling (jackknife). FLOPs to train are those of one image, forward and backward; VAR's "
        "are more because it learns the tokens of all its maps. FLOPs and milliseconds of drawing "
        "are with guidance, milliseconds with the decoder, as the median of rounds in which all "
        "methods took turns. Quality is at the guidance of the lowest distance among those tried; "
        "all are in quality.csv.\n\n"
    )
    text += _claims(rows)
    if any("frechet" in r and "ms_1" in r and "ms_16" in r for r in rows):
        save(result_plots.comparison(rows, PAPER_SPEED), figures / "comparison.png")
        text += "![comparison](figures/comparison.png)\n\n"
    if (folder / "samples.png").exists():
        text += "![samples](comparison/samples.png)\n\n"
    if bound := rows_of(folder / "autoencoders.csv"):
        text += "What the autoencoders leave to win, as many test images:\n\n"
        heads = ("autoencoder", "PSNR, dB", "Frechet distance", "own class, %")
        text += table(heads, [[str(r["autoencoder"]),
                               number(r["psnr"], 1) if "psnr" in r else "",
                               with_error([r], "frechet"), with_error([r], "accuracy", 1, 100)]
                              for r in bound]) + "\n"  # fmt: skip
    origin = [r for n in ("quality", "cost", "speed") for r in rows_of(folder / f"{n}.csv")]
    return text + provenance(origin)


def ablation(folder: Path, figures: Path) -> str:
    """The paper's ablation at toy scale (kept as ablation.csv), each row against the one before."""
    text, rows = "## Ablation\n\n", rows_of(folder / "comparison" / "quality.csv")
    if not rows:
        return text + f"{NOT_MEASURED}: run `varmini compare train` and `measure`\n"
    runs = [[r for r in rows if (r["method"], r["guidance"], r["filtered"])
             == (s.method, s.guidance, str(s.filtered))] for _, s in ABLATION]  # fmt: skip
    steps = [welch(*([r["frechet"] for r in side] for side in (now, before)))
             for before, now in pairwise(runs) if before and now]  # fmt: skip
    cells, kept, adjusted = [], [], dict(zip(steps, holm([step.p for step in steps])))
    left = iter(steps)
    for i, ((name, _), fid, those) in enumerate(zip(ABLATION, PAPER_FID, runs)):
        step = next(left) if i and those and runs[i - 1] else None
        if those:
            about = {k: those[0][k] for k in ("command", "commit", "hardware", "date")}
            row: Row = {"row": name, "seeds": len(those), "paper": fid, **about}
            for key in QUALITY:
                row[key], row[f"{key}_se"] = mean(r[key] for r in those), error_of(those, key)
            kept.append(row)
        change = f"{step.value:+.2f} ({step.low:+.2f} to {step.high:+.2f})" if step else ""
        decided = "" if not step else f"{adjusted[step]:.2g}" if step.enough else "undecided"
        cells.append([name, with_error(those, "frechet"), change, decided,
                      *(with_error(those, m) for m in ("precision", "recall")),
                      with_error(those, "accuracy", 1, 100), str(len(those)),
                      f"{fid:.2f}"])  # fmt: skip
    if kept:
        write_rows(folder / "comparison" / "ablation.csv", kept)
    heads = ("row", "Frechet distance", "change (95 %)", "p (Holm)", "precision", "recall",
             "own class, %", "seeds", "paper's FID")  # fmt: skip
    return text + table(heads, cells) + (
        "\nErrors as above; changes with Welch's interval over seeds, p-values adjusted for the "
        f"whole table. With fewer than {ENOUGH} seeds a side a change is undecided, however large "
        "it looks. One budget of training images a row.\n"
    )  # fmt: skip
