"""Regenerates every table and figure of results/ from the CSV files there: `make results`.

Nothing is trained, drawn or timed here. What has no CSV file reads "not measured".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median

from varmini import result_plots
from varmini.bench.cost import exponents
from varmini.companions.methods import ABLATION, DRAWINGS
from varmini.files import write_atomic
from varmini.plots import save
from varmini.results import RESULTS, Row, read_rows, write_rows
from varmini.sweep import laws

NOT_MEASURED = "not measured"
PAPER_SPEED = {"raster AR, no cache": "about 20", "DiT, DDIM 250": "45"}
"""How many times as long as VAR, as published: a raster AR, and DiT with 250 steps."""


def rows_of(path: Path) -> list[Row]:
    """The rows of a CSV file; none when it was never measured."""
    return read_rows(path) if path.exists() else []


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; what is missing was not measured."""
    return NOT_MEASURED if value is None else f"{value:.{digits}f}"


def with_error(rows: Sequence[Row], name: str, digits: int = 2, scale: float = 1) -> str:
    """mean ± error over runs: the larger of the sampling error and the spread between seeds.

    The spread is half the range of two seeds, and the standard error of the mean of more.
    """
    if not rows:
        return NOT_MEASURED
    centre, error = scale * mean(r[name] for r in rows), scale * error_of(rows, name)
    return f"{centre:.{digits}f} ± {error:.{digits}f}"


def error_of(rows: Sequence[Row], name: str) -> float:
    """Standard error of a mean over runs: between runs, but no less than the sampling error."""
    n = len(rows)
    sampling = (sum(r[f"{name}_se"] ** 2 for r in rows) ** 0.5) / n
    centre = mean(r[name] for r in rows)
    between = (sum((r[name] - centre) ** 2 for r in rows) / (n * (n - 1))) ** 0.5 if n > 1 else 0.0
    return max(sampling, between)


def provenance(rows: Sequence[Row]) -> str:
    """One line: by which command, on which commit, where and when."""
    commands = "; ".join(dict.fromkeys(f"`{r['command']}`" for r in rows))
    commits = ", ".join(dict.fromkeys(str(r["commit"]) for r in rows))
    dates = sorted({str(r["date"])[:10] for r in rows})
    machines = ", ".join(dict.fromkeys(str(r["hardware"]) for r in rows))
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{commands}; commit {commits}; {machines}; {when}.\n"


# ------------------------------------------------------------------------------------- the sections


def scaling(folder: Path, figures: Path) -> str:
    """Laws over N and C, with intervals, residuals and the prediction of the largest size."""
    rows = rows_of(folder / "scaling" / "sweep.csv")
    text = "## Scaling laws\n\n"
    if len({r["depth"] for r in rows}) < 3:
        return text + f"{NOT_MEASURED}: run `varmini scaling`\n"
    fits = laws(rows)
    write_rows(folder / "scaling" / "laws.csv", fits)
    last, sizes = max(r["images"] for r in rows), sorted({r["n"] for r in rows})
    seeds = len({r["seed"] for r in rows})
    text += (
        f"{len(sizes)} sizes, N = {sizes[0]:,} to {sizes[-1]:,} parameters in the blocks, {seeds} "
        f"seeds each, {last:,} images a run, {rows[0]['held_out']} held-out images. N in billions, "
        "C in PFlops, as in the paper. Intervals: 95 %, bootstrap over sizes and seeds. Curvature: "
        "the coefficient of (log x)^2, zero for a true law. Miss: what the law of all other sizes "
        "(for C: points of less compute) predicts of the largest, against what was measured.\n\n"
    )
    cells = [
        [
            f"{result_plots.NAMES[f['measure']]} over {f['over'].upper()}",
            f"({f['a']:.3g} {f['over'].upper()})^{f['b']:.4f}",
            f"{f['b_low']:.4f} to {f['b_high']:.4f}",
            f"{f['pearson']:.4f}",
            f"{f['curvature']:+.4f}",
            f"{100 * f['largest_residual']:.2f} %",
            f"{100 * f['miss']:+.2f} %",
            f"({f['paper_a']:g} {f['over'].upper()})^{f['paper_b']:g}",
        ]
        for f in fits
    ]
    heads = ("law", "toy", "interval of b", "r", "curvature", "largest residual", "miss", "paper")
    text += table(heads, cells) + "\n" + _bends(rows)
    for name, draw in (
        ("scaling_n", result_plots.scaling_laws),
        ("scaling_c", result_plots.compute_frontier),
        ("scaling_residuals", result_plots.law_residuals),
    ):
        save(draw(rows), figures / f"{name}.png")
        text += f"![{name}](figures/{name}.png)\n\n"
    return text + provenance(rows)


def _bends(rows: Sequence[Row]) -> str:
    """What keeps a toy off its law: too few steps, and images that come again."""
    sizes, last = sorted({r["n"] for r in rows}), max(r["images"] for r in rows)
    before = max(r["images"] for r in rows if r["images"] < last)

    def loss(n: int, images: int) -> float:
        return mean(r["loss"] for r in rows if (r["n"], r["images"]) == (n, images))

    gains = [100 * (1 - loss(n, last) / loss(n, before)) for n in (sizes[0], sizes[-1])]
    text = "From half the length to the whole, the loss of all scales falls by "
    text += f"{gains[0]:.1f} % at the smallest size and by {gains[1]:.1f} % at the largest; a "
    text += "converged run gains nothing"
    if data := rows[0].get("data_images"):
        text += f". Of {data:,} training images, a run draws {last / data:.2f} times as many"
    return text + ".\n\n"


def _best(rows: Sequence[Row]) -> tuple[float | None, list[Row]]:
    """The guidance with the lowest mean Frechet distance, and its rows."""
    groups = {g: [r for r in rows if r["guidance"] == g] for g in {r["guidance"] for r in rows}}
    if not groups:
        return None, []
    best = min(groups, key=lambda g: mean(r["frechet"] for r in groups[g]))
    return best, groups[best]


def comparison_rows(folder: Path) -> list[Row]:
    """What the table of the comparison holds, a row for every way of drawing."""
    quality, cost = rows_of(folder / "quality.csv"), rows_of(folder / "cost.csv")
    speed, found = rows_of(folder / "speed.csv"), []
    for d in DRAWINGS:
        row: Row = {"name": d.name}
        row |= next((r for r in cost if r["drawing"] == d.name), {})
        for batch in sorted({r["batch"] for r in speed}):
            of = [r for r in speed if (r["drawing"], r["batch"]) == (d.name, batch)]
            if of:
                row[f"ms_{batch}"] = median(r["ms_an_image"] for r in of)
        drawn = [r for r in quality if r["method"] == d.method and r["filtered"] == "True"]
        # Of DiT's two ways only the shorter one is judged; the two caches draw the same pictures.
        row["guidance"], row["quality"] = (None, []) if "250" in d.name else _best(drawn)
        found.append(row)
    return found


def plain_rows(rows: Sequence[Row]) -> list[Row]:
    """The table as numbers, for a script to read."""
    own, found = rows[0], []
    for r in rows:
        row = {k: v for k, v in r.items() if k != "quality"}
        for key in ("ms_1", "ms_16", "flops", "steps"):
            if key in r and key in own:
                row[f"{key}_ratio"] = r[key] / own[key]
        for key in ("frechet", "accuracy", "precision", "recall") if r["quality"] else ():
            row[key] = mean(q[key] for q in r["quality"])
            row[f"{key}_se"] = error_of(r["quality"], key)
        found.append(row)
    return found


def _claims(rows: Sequence[Row]) -> str:
    """The paper's ratios of time, and what was found here."""
    own, cells = rows[0], []
    for r in rows[1:]:
        if all(k in x for k in ("ms_1", "ms_16", "flops", "steps") for x in (own, r)):
            claim = next((v for k, v in PAPER_SPEED.items() if r["name"] == k), "")
            ratios = [number(r[k] / own[k]) for k in ("ms_1", "ms_16", "flops")]
            cells.append([r["name"], claim, *ratios, number(r["steps"] / own["steps"], 1)])
    if not cells:
        return ""
    heads = ("to VAR", "time in the paper", "time here, batch 1", "batch 16", "FLOPs", "steps")
    text = "The paper's claims of speed (its table 1: ImageNet, on a GPU) and the ratios here:\n\n"
    text += table(heads, cells) + "\nWhere time follows the steps rather than the FLOPs, VAR wins "
    return text + "by being parallel, not by computing less.\n\n"


def comparison(folder: Path, figures: Path) -> str:
    """The table of the comparison, the autoencoders' bound, and the plot."""
    folder = folder / "comparison"
    text = "## VAR beside raster AR, MaskGIT and DiT\n\n"
    rows = comparison_rows(folder)
    if not any(len(r) > 3 for r in rows):
        return text + f"{NOT_MEASURED}: run `varmini compare train`, `measure` and `speed`\n"
    write_rows(folder / "table.csv", plain_rows(rows))
    first = rows[0]
    cells = []
    for r in rows:
        times = []
        for b in (1, 16):
            ms, own = r.get(f"ms_{b}"), first.get(f"ms_{b}")
            times.append(NOT_MEASURED if ms is None else f"{ms:.1f} ({ms / own:.2f})")
        cells.append(
            [
                r["name"],
                number(r["parameters"] / 1e6) + " M" if "parameters" in r else NOT_MEASURED,
                str(r.get("steps", NOT_MEASURED)),
                number(r["flops"] / 1e9) if "flops" in r else NOT_MEASURED,
                number(r["training_flops"] / 1e9) if "training_flops" in r else NOT_MEASURED,
                *times,
                number(r["guidance"], 1),
                with_error(r["quality"], "frechet"),
                with_error(r["quality"], "accuracy", 1, 100),
                with_error(r["quality"], "precision"),
                with_error(r["quality"], "recall"),
            ]
        )
    heads = ("method", "parameters", "sequential steps", "GFLOPs an image", "GFLOPs to train",
             "ms, batch 1 (to VAR)", "ms, batch 16 (to VAR)", "guidance", "Frechet distance",
             "own class, %", "precision", "recall")  # fmt: skip
    text += table(heads, cells) + "\n"
    text += (
        "Frechet distance, precision and recall are in the features of our own classifier: they "
        "are not FID. Errors are standard errors: over training seeds, but no less than that of "
        "sampling (jackknife). FLOPs to train are those of one image, forward and backward. FLOPs "
        "and milliseconds of drawing are with guidance, milliseconds with the decoder. Quality is "
        "at the guidance of the lowest distance among those tried; all are in quality.csv.\n\n"
    )
    text += _claims(rows)
    shown = [
        {"name": r["name"], "ms_1": r["ms_1"], "ms_16": r["ms_16"],
         "frechet": mean(q["frechet"] for q in r["quality"]),
         "frechet_se": error_of(r["quality"], "frechet")}
        for r in rows if r["quality"] and "ms_1" in r and "ms_16" in r
    ]  # fmt: skip
    if shown:
        save(result_plots.quality_and_time(shown), figures / "comparison.png")
        text += "![comparison](figures/comparison.png)\n\n"
    if (folder / "samples.png").exists():
        text += "![samples](comparison/samples.png)\n\n"
    bound = rows_of(folder / "autoencoders.csv")
    if bound:
        text += "What the autoencoders leave to win, as many test images:\n\n"
        heads = ("autoencoder", "PSNR, dB", "Frechet distance", "own class, %")
        text += table(heads, [[str(r["autoencoder"]),
                               number(r["psnr"], 1) if "psnr" in r else "",
                               with_error([r], "frechet"), with_error([r], "accuracy", 1, 100)]
                              for r in bound]) + "\n"  # fmt: skip
    origin = [r for n in ("quality", "cost", "speed") for r in rows_of(folder / f"{n}.csv")]
    return text + provenance(origin)


def ablation(folder: Path, figures: Path) -> str:
    """The paper's ablation at toy scale."""
    text, rows = "## Ablation\n\n", rows_of(folder / "comparison" / "quality.csv")
    if not rows:
        return text + f"{NOT_MEASURED}: run `varmini compare train` and `measure`\n"
    paper = ("18.65", "5.22", "4.95", "4.64", "3.60", "3.30")
    cells, plain = [], []
    for (name, s), fid in zip(ABLATION, paper):
        those = [r for r in rows if (r["method"], r["guidance"], r["filtered"])
                 == (s.method, s.guidance, str(s.filtered))]  # fmt: skip
        cells.append([name, *(with_error(those, m) for m in ("frechet", "precision", "recall")),
                      with_error(those, "accuracy", 1, 100), str(len(those)), fid])  # fmt: skip
        if those:
            about = {k: those[0][k] for k in ("command", "commit", "hardware", "date")}
            plain.append({"row": name, "frechet": mean(r["frechet"] for r in those),
                          "frechet_se": error_of(those, "frechet"), "seeds": len(those),
                          "paper": float(fid), **about})  # fmt: skip
    write_rows(folder / "comparison" / "ablation.csv", plain)
    heads = ("row", "Frechet distance", "precision", "recall", "own class, %", "seeds",
             "paper's FID")  # fmt: skip
    return text + table(heads, cells) + "\nErrors as above. One budget of training images a row.\n"


def zero_shot(folder: Path, figures: Path) -> str:
    """Painting, super-resolution and error repair."""
    folder, text = folder / "zero_shot", "## Zero-shot tasks\n\n"
    painting = rows_of(folder / "painting.csv")
    if not painting:
        return text + f"{NOT_MEASURED}: run `varmini zeroshot`\n"
    cells = []
    for r in painting:
        name = f"{r['task']}, {'smooth' if r['smooth'] == 'True' else 'sampled'}"
        edited = "accuracy_target_painted" in r
        target = with_error([r], "accuracy_target_painted", 1, 100) if edited else ""
        cells.append([name, *(with_error([r], f"kept_{k}", 4) for k in ("painted", "tokenizer")),
                      *(with_error([r], f"seam_{k}", 3) for k in
                        ("painted", "tokenizer", "pasted", "original")),
                      target, with_error([r], "accuracy_own_painted", 1, 100)])  # fmt: skip
    heads = ("task", "error in the kept area", "the tokenizer's own", "seam", "seam, tokenizer",
             "seam, pasted blindly", "seam, original", "class asked for, %",
             "own class, %")  # fmt: skip
    text += table(heads, cells) + "\nMean squares of pixels in [-1, 1]; seam: mean step across "
    text += "the mask's edge.\n\n"
    for r in dict.fromkeys(r["task"] for r in painting):
        text += f"![{r}](zero_shot/{r}.png)\n\n"
    finer = rows_of(folder / "super_resolution.csv")
    if finer:
        text += "Super-resolution: the first k maps are the image's own, the model draws the "
        text += "rest.\n\n"
        heads = ("k", "error, drawn", "error, k maps decoded", "error, tokenizer",
                 "own class, drawn, %")  # fmt: skip
        text += table(heads, [[str(r["known"]), with_error([r], "mse_drawn", 4),
                               with_error([r], "mse_coarse", 4) if "mse_coarse" in r else "",
                               with_error([r], "mse_tokenizer", 4),
                               with_error([r], "accuracy_drawn", 1, 100)]
                              for r in finer]) + "\n"  # fmt: skip
        text += "![super-resolution](zero_shot/super-resolution.png)\n\n"
    # The map of one token is corrupted whole, whatever the share: it is shown once.
    mended = list({(r["scale"], r["changed"]): r for r in rows_of(folder / "repair.csv")}.values())
    if mended:
        text += "Error repair: a share of one map is corrupted; how much of the damage is gone "
        text += "after the later maps (1: all, 0: no better than maps drawn without seeing it)?\n\n"
        heads = ("map", "corrupted", "model, features", "model, pixels", "tokenizer, features",
                 "own class: clean, %", "ignored, %", "corrected, %")  # fmt: skip
        text += table(heads, [[str(r["scale"]), f"{100 * r['changed']:.0f} %",
                               *(with_error([r], f"repair_{a}_{s}") for a, s in
                                 (("corrected", "features"), ("corrected", "pixels"),
                                  ("oracle", "features"))),
                               *(with_error([r], f"accuracy_{a}", 1, 100)
                                 for a in ("clean", "ignored", "corrected"))]
                              for r in mended]) + "\n"  # fmt: skip
        save(result_plots.repair_bars(mended), figures / "repair.png")
        text += "![repair](figures/repair.png)\n\n"
    return text + provenance([*painting, *finer, *mended])


def cost(folder: Path, figures: Path) -> str:
    """How time and memory grow with image size, depth and batch."""
    text, rows = "## Growth of cost\n\n", rows_of(folder / "cost.csv")
    if not rows:
        return text + f"{NOT_MEASURED}: run `varmini bench --only cost`\n"
    paper = {"VAR": "n^4", "raster AR, no cache": "n^6"}
    found = [(axis, r) for axis in ("side", "depth", "batch") for r in exponents(rows, axis)]
    cells = [
        [axis, r["method"], f"{r['from']} to {r['to']}", number(r["steps"], 1),
         number(r["pairs"]), paper.get(r["method"], "") if axis == "side" else "",
         number(r["seconds"])]
        for axis, r in found
    ]  # fmt: skip
    text += (
        "Drawing tokens, guided, without the decoder: exponents b of cost = a x^b, fitted to the "
        "three largest x. The paper counts pairs of attention; with a key-value cache raster AR "
        "has n^4 as well, but takes n^2 steps one after the other. Time follows the steps until "
        "a step's own arithmetic outweighs the price of a call. Peak memory is that of a first run "
        "and counts the kernels that are compiled for every new length.\n\n"
    )
    heads = ("x", "method", "range", "steps", "pairs", "paper", "seconds")
    text += table(heads, cells) + "\n"
    save(result_plots.cost_growth(rows), figures / "cost.png")
    return text + "![growth of cost](figures/cost.png)\n\n" + provenance(rows)


SECTIONS: tuple[Callable[[Path, Path], str], ...] = (
    scaling, comparison, ablation, zero_shot, cost,
)  # fmt: skip


def make(folder: Path) -> Path:
    """Writes results/README.md and results/figures/ from the tables in `folder`."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    text = "# Results\n\nMade by `make results` from the CSV files in this folder.\n\n"
    text += "\n".join(section(folder, figures) for section in SECTIONS)
    write_atomic(folder / "README.md", text.encode())
    return folder / "README.md"


def main(args: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 after an error that is told in one line."""
    import matplotlib

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    matplotlib.use("Agg")
    try:
        print(f"wrote {make(parser.parse_args(args).results)}")
    except (ValueError, OSError, KeyError) as error:
        print(f"make_results: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
