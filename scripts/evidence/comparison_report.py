"""The family's tokenizers, generators and ablation as tables and figures, from their CSV files."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import report_figures
from wording import NOT_MEASURED, error_of, number, provenance, table, with_error

from varmini.evaluation.statistics import ENOUGH, Difference, holm, welch
from varmini.experiments.comparison.methods import ABLATION, METHODS
from varmini.experiments.comparison.tokenizers import FAMILY
from varmini.plots.images import save
from varmini.runtime.tables import Row, rows_of, write_rows

QUALITY = ("frechet", "accuracy", "precision", "recall")
PAPER_FID = (18.65, 5.22, 4.95, 4.64, 3.60, 3.30)
"""Of the rows of `ABLATION`: VAR, table 3."""
NOT_YET = f"{NOT_MEASURED}: run `varmini compare --sweep`, then `--speed 7`\n"


def tokenizers(folder: Path, figures: Path) -> str:
    """What each tokenizer keeps of the test images, and what its remedy against collapse does."""
    text, rows = "## The tokenizers\n\n", rows_of(folder / "comparison" / "tokenizers.csv")
    if not rows:
        return text + NOT_YET
    names = [n for n in FAMILY if any(r["tokenizer"] == n for r in rows)]
    names += sorted({r["tokenizer"] for r in rows} - set(names))
    cells = []
    for name in names:
        of = [r for r in rows if r["tokenizer"] == name]
        if "numbers" in of[0]:
            size, usage = f"{of[0]['numbers']} numbers", ""
        else:
            size = f"{of[0]['tokens']} x {of[0]['bits'] / of[0]['tokens']:.0f} bits"
            usage = f"{100 * fmean(r['usage'] for r in of):.0f} % of {of[0]['codes']}"
        cells.append([name.removesuffix("-bare"), of[0].get("lacks", ""), size, usage,
                      with_error(of, "psnr", 1), with_error(of, "frechet"),
                      with_error(of, "accuracy", 1, 100), str(len(of))])  # fmt: skip
    heads = ("tokenizer", "without", "an image", "codes in use", "PSNR, dB", "Frechet distance",
             "own class, %", "seeds")  # fmt: skip
    return (
        text
        + table(heads, cells)
        + (
            f"\nEach saw {rows[0]['images']:,} images, with VAR's reconstruction loss (TiTok's "
            f"proxy, a VQ-VAE, saw as many before it); measured on {rows[0]['n']:,} test images, "
            "usage too. Errors are standard errors over images, or over seeds where that is more. "
            "Without: what the tokenizer of that name above was given against the collapse of its "
            "codebook; VAR's revival and diversity, VQ-VAE's start and revival and VQGAN's start "
            "are not in their papers."
            "\n\n" + provenance(rows)
        )
    )


def family_rows(quality: list[Row], cost: list[Row], speed: list[Row]) -> list[Row]:
    """A row for every way of drawing: cost, milliseconds, ratios to VAR, and quality with `_se`.

    quality, cost, speed: the rows of the tables that `varmini compare` writes.
    """
    found: list[Row] = []
    for each in cost:
        name, drawing = each["method"], each.get("drawing", "")
        row = {"name": f"{METHODS[name].title}{', ' + drawing if drawing else ''}"} | each
        for batch in sorted({r["batch"] for r in speed}):
            of = [
                r["ms_an_image"]
                for r in speed
                if (r["method"], r.get("drawing", ""), r["batch"]) == (name, drawing, batch)
            ]
            row[f"ms_{batch}"] = median(of)  # fmt: skip
        own = found[0] if found else row
        row |= {f"{k}_ratio": row[k] / own[k] for k in ("ms_1", "ms_16", "flops", "steps")}
        shown = "" if drawing == "no cache" else drawing  # with a cache it draws the same
        rows = [r for r in quality if (r["method"], r.get("drawing", "")) == (name, shown)]
        row["seeds"] = len(rows)
        if rows:
            row["guidance"] = rows[0]["guidance"]
            for key in QUALITY:
                row |= {key: fmean(r[key] for r in rows), f"{key}_se": error_of(rows, key)}
        found.append(row)
    return found


def _cells(r: Row) -> list[str]:
    times = [f"{r[f'ms_{b}']:.1f} ({r[f'ms_{b}_ratio']:.2f})" for b in (1, 16)]
    flops = [number(r[k] / 1e9) for k in ("flops", "training_flops")]
    quality = [with_error([r] if r["seeds"] else [], k, *((1, 100) if k == "accuracy" else (2,)))
               for k in QUALITY]  # fmt: skip
    return [r["name"], f"{r['parameters'] / 1e6:.2f} M", str(r["steps"]), *flops, *times,
            number(r.get("guidance"), 1), *quality, str(r["seeds"])]  # fmt: skip


def against_var(quality: list[Row]) -> list[tuple[str, Difference]]:
    """VAR's Frechet distance minus another method's, for all that have `ENOUGH` seeds."""

    def distances(name: str, drawing: str) -> list[float]:
        return [r["frechet"] for r in quality
                if (r["method"], r.get("drawing", "")) == (name, drawing)]  # fmt: skip

    var, found = distances("var", ""), []
    for name, method in METHODS.items():
        if name not in ("var", *(row[1] for row in ABLATION if row[1].startswith("var"))):
            drawing = next(iter(method.drawings))
            if min(len(var), len(other := distances(name, drawing))) >= ENOUGH:
                found.append((method.title, welch(var, other)))
    return found


def comparison(folder: Path, figures: Path) -> str:
    """The table of the generators (kept as table.csv), the tests against VAR, and the plot."""
    folder, text = folder / "comparison", "## The generators\n\n"
    quality, cost, speed, grid = (
        rows_of(folder / f"{name}.csv") for name in ("quality", "cost", "speed", "grid")
    )
    if not (quality and cost and speed and grid):
        return text + NOT_YET
    rows = family_rows(quality, cost, speed)
    write_rows(folder / "table.csv", rows)
    heads = ("method", "parameters", "sequential steps", "GFLOPs an image", "GFLOPs to train",
             "ms, batch 1 (to VAR)", "ms, batch 16 (to VAR)", "guidance", "Frechet distance",
             "own class, %", "precision", "recall", "seeds")  # fmt: skip
    text += table(heads, [_cells(r) for r in rows]) + (
        f"\nEach saw {max(r['images'] for r in rows_of(folder / 'training.csv')):,} images. "
        "Learning rates were searched in runs of a quarter of that, until the best was inside the "
        "grid (grid.csv), guidance on other samples against "
        "training images (guidance.csv). "
        "Measured with an evaluator that took part in no training, against the test images. "
        "Errors are standard errors: over seeds, but no less than that of sampling (jackknife). "
        "FLOPs and milliseconds are with guidance and decoder, milliseconds the median of rounds "
        "in which all took turns.\n\n"
    )
    tests = against_var(quality)
    if tests:
        adjusted = holm([d.p for _, d in tests])
        heads = ("VAR's Frechet distance minus that of", "difference (95 %)", "p (Holm)")
        text += table(heads, [[name, f"{d.value:+.2f} ({d.low:+.2f} to {d.high:+.2f})", f"{p:.2g}"]
                              for (name, d), p in zip(tests, adjusted)])  # fmt: skip
        text += f"\nWelch's test, where both sides have {ENOUGH} seeds; negative is for VAR.\n\n"
    save(report_figures.family([r for r in rows if r["seeds"]]), figures / "comparison.png")
    text += "![quality over time](figures/comparison.png)\n\n"
    return text + provenance([*quality, *cost, *speed])


def minutes(folder: Path, figures: Path) -> str:
    """How long each system trains, and `varmini compare NAME` in all, slowest first."""
    text, rows = "## Minutes a system\n\n", rows_of(folder / "comparison" / "minutes.csv")
    if not rows:
        return text + f"{NOT_MEASURED}: run `scripts/evidence/family_minutes.py`\n"
    rows.sort(key=lambda r: -r["minutes"])
    cells = [[r["system"], r["kind"], number(r["minutes"], 1), number(r.get("in_all"), 1)]
             for r in rows]  # fmt: skip
    heads = "system", "kind", "training, minutes", "`varmini compare` in all, minutes"
    over = [(f"{r['system']} {what} {r[key]:.1f}") for key, limit, what in
            (("minutes", 4, "trains"), ("in_all", 5, "takes in all")) for r in rows
            if r.get(key, 0) > limit]  # fmt: skip
    return text + table(heads, cells) + (
        f"\nEstimated from 20 steps of each, with {rows[0]['threads']} threads on "
        f"{rows[0]['machine']} (emulated, where the hardware has more). In all: with the "
        "tokenizers that it needs, trained from nothing, and the pictures. Aimed at: four minutes "
        f"of training, five in all. Over that: {'; '.join(over) or 'none'}.\n\n"
        + provenance(rows)
    )  # fmt: skip


def ablation(folder: Path, figures: Path) -> str:
    """The paper's ablation at toy scale (kept as ablation.csv), each row against the one before."""
    text, rows = "## Ablation\n\n", rows_of(folder / "comparison" / "quality.csv")
    guided = {r["guidance"] for r in rows if r["method"] == "var" and not r.get("drawing")}
    runs = [[r for r in rows
             if (r["method"], r.get("drawing", "")) == (method, drawing)
             and (r["guidance"] == s if s else r["guidance"] in guided)]
            for _, method, drawing, s in ABLATION]  # fmt: skip
    if not all(runs):
        return text + NOT_YET
    steps = [welch(*([r["frechet"] for r in side] for side in (now, before)))
             for before, now in pairwise(runs)]  # fmt: skip
    adjusted, cells, kept = holm([step.p for step in steps]), [], []
    for i, ((name, *_), fid, those) in enumerate(zip(ABLATION, PAPER_FID, runs)):
        change = decided = ""
        if i:
            step, p = steps[i - 1], adjusted[i - 1]
            change = f"{step.value:+.2f} ({step.low:+.2f} to {step.high:+.2f})"
            decided = f"{p:.2g}" if step.enough else "undecided"
        about = {k: those[0][k] for k in ("command", "commit", "hardware", "date")}
        means = {key: fmean(r[key] for r in those) for key in QUALITY}
        errors = {f"{key}_se": error_of(those, key) for key in QUALITY}
        kept.append({"row": name, "seeds": len(those), "paper": fid} | about | means | errors)
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
