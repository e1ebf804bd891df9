"""Regenerates every table and figure of results/ from the CSV files there: `make results`.

Nothing is trained, drawn or timed here. What has no CSV file reads "not measured".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import report_figures
from comparison_report import ablation, comparison, minutes, tokenizers
from infinity_report import infinity, of_codes
from likelihood_report import likelihood
from live_scaling_report import live_scaling
from motion_report import motion
from tricks_report import tokenizer_tricks, tricks
from wording import NOT_MEASURED, number, provenance, table, with_error
from words_report import words

from varmini.evaluation.statistics import welch
from varmini.experiments.figures import NAMES, repair_bars, scaling_laws
from varmini.experiments.scaling.fits import fit_power_law, laws
from varmini.experiments.scaling.floors import floors
from varmini.plots.images import save
from varmini.runtime.files import write_atomic
from varmini.runtime.tables import RESULTS, Row, rows_of, write_rows


def scaling(folder: Path, figures: Path) -> str:
    """Laws over N and C, with intervals, residuals and the prediction of the largest size."""
    rows = rows_of(folder / "scaling" / "sweep.csv")
    text = "## Scaling laws\n\n"
    if len({r["depth"] for r in rows}) < 3:
        return text + f"{NOT_MEASURED}: run `varmini scaling`\n"
    fits = laws(rows)
    write_rows(folder / "scaling" / "laws.csv", fits)
    floored = floors(rows) if len({r["depth"] for r in rows}) > 3 else []
    last, sizes = max(r["images"] for r in rows), sorted({r["n"] for r in rows})
    seeds = len({r["seed"] for r in rows})
    text += (
        f"{len(sizes)} sizes, N = {sizes[0]:,} to {sizes[-1]:,} parameters in the blocks, {seeds} "
        f"seeds each, {last:,} images a run, {rows[0]['held_out']} held-out images. N in billions, "
        "C in PFlops, as in the paper. Intervals: 95 %, bootstrap over sizes and seeds. Curvature: "
        "the coefficient of (log x)^2, zero for a true law, positive where gains flatten. Bend: "
        "the share of the squared residuals that it explains; up to 0.3 the points are said to "
        "scatter about a line, near 1 they lie on a curve. Miss: what the law of all other sizes "
        "(for C: points of less compute) predicts of the largest, against what was measured; "
        "beside it that of the value at the next largest, which needs no law. The frontier over C "
        "leaves out the start of each run: its warm-up, and as long as its average holds the first "
        "weights.\n\n"
    )
    cells = [
        [
            f"{NAMES[f['measure']]} over {f['over'].upper()}",
            f"({f['a']:.3g} {f['over'].upper()})^{f['b']:.4f}",
            f"{f['b_low']:.4f} to {f['b_high']:.4f}",
            f"{f['pearson']:.4f}",
            f"{f['curvature']:+.4f}",
            f"{f['bend']:.2f}",
            f"{100 * f['largest_residual']:.2f} %",
            f"{100 * f['miss']:+.2f} %",
            f"{100 * f['next_miss']:+.2f} %",
            f"({f['paper_a']:g} {f['over'].upper()})^{f['paper_b']:g}",
            f"{f['flatter']:.1f}",
        ]
        for f in fits
    ]
    heads = ("law", "toy", "interval of b", "r", "curvature", "bend", "largest residual", "miss",
             "next largest", "paper", "times flatter")  # fmt: skip
    text += table(heads, cells) + "\n" + _targets(fits)
    if floored:
        write_rows(folder / "scaling" / "floors.csv", floored)
        text += _floors(floored)
    text += _moments(rows) + _bends(rows, fits)
    for name, draw in (
        ("scaling_n", scaling_laws),
        ("scaling_c", report_figures.compute_frontier),
        ("scaling_residuals", report_figures.law_residuals),
    ):
        save(draw(rows), figures / f"{name}.png")
        text += f"![{name}](figures/{name}.png)\n\n"
    return text + provenance(rows) + _pictures(folder / "scaling")


def _pictures(folder: Path) -> str:
    """What larger models of the sweep draw (the paper's figure 7)."""
    rows = rows_of(folder / "pictures.csv")
    if not rows:
        return f"\nPictures of every size: {NOT_MEASURED}, run `varmini scaling --pictures 60`.\n"
    seeds, first = len({r["seed"] for r in rows}), rows[0]
    text = "\nDo larger models draw better pictures (the paper's figure 7)? "
    text += f"{first['n']} from each run, {seeds} seeds, {first['images']:,} training images, "
    text += f"cfg {first['cfg']:g}; measures and errors as in the comparison below.\n\n"
    heads = ("d", "Frechet distance", "own class, %", "precision", "recall")
    cells = []
    for depth in sorted({r["depth"] for r in rows}):
        of = [r for r in rows if r["depth"] == depth]
        cells.append([str(depth), with_error(of, "frechet"), with_error(of, "accuracy", 1, 100),
                      with_error(of, "precision"), with_error(of, "recall")])  # fmt: skip
    text += table(heads, cells) + "\nFrechet distance at the largest size against the smallest: "
    ends = ([r["frechet"] for r in rows if r["depth"] == end(r["depth"] for r in rows)]
            for end in (max, min))  # fmt: skip
    text += f"{welch(*ends)}.\n\n"
    if (folder / "pictures.png").exists():
        text += "![pictures of every size](scaling/pictures.png)\n\n"
    return text + provenance(rows)


def _targets(fits: Sequence[Row]) -> str:
    """What was aimed at, and whether it was reached."""
    over_n = [f for f in fits if f["over"] == "n"]
    told = [
        f"{NAMES[f['measure']]} {f['pearson']:.4f} "
        f"({'reached' if f['pearson'] <= -0.99 else 'missed'})"
        for f in over_n if f["measure"].startswith("loss")
    ]  # fmt: skip
    worst = max(abs(f["miss"]) for f in over_n)
    text = f"Aimed at: r of -0.99 or better between log N and log loss: {', '.join(told)}; the "
    text += f"largest size predicted within 3 %: at most {100 * worst:.2f} % off "
    return text + f"({'reached' if worst < 0.03 else 'missed'}).\n\n"


def _floors(fits: Sequence[Row]) -> str:
    """The laws over N with a floor, beside those without."""
    text = "With a floor, L = E + (a N)^b (nonlinear least squares; intervals as above). E is what "
    text += "runs of this length would be left with at any size, not the entropy of the tokens; "
    text += "the paper's law has none, so its exponent is no estimate of this one. Miss: as above, "
    text += "of this law, of the law without a floor, of the next largest. r is that of log N and "
    text += "log(L - E). An interval of b that ends at -0.005 or -3 ends where the search did.\n\n"
    heads = ("law", "E", "interval of E", "b", "interval of b", "paper's b", "r", "rms", "without",
             "miss", "without", "next largest")  # fmt: skip
    cells = [
        [f"{NAMES[f['measure']]} over N", f"{f['floor']:.3f}",
         f"{f['floor_low']:.3f} to {f['floor_high']:.3f}", f"{f['b']:.3f}",
         f"{f['b_low']:.3f} to {f['b_high']:.3f}", f"{f['paper_b']:g}", f"{f['pearson']:.4f}",
         f"{f['rms']:.4f}", f"{f['rms_pure']:.4f}",
         *(f"{100 * f[name]:+.2f} %" for name in ("miss", "pure_miss", "next_miss"))]
        for f in fits
    ]  # fmt: skip
    return text + table(heads, cells) + "\n"


def _moments(rows: Sequence[Row]) -> str:
    """The laws over N of the same runs at every moment that was measured."""
    cells, reached = [], []
    for images in sorted({r["images"] for r in rows}):
        now = [r for r in rows if r["images"] == images]
        found = [fit_power_law([r["n"] for r in now], [r[m] for r in now])
                 for m in ("loss_last", "loss")]  # fmt: skip
        if all(law.pearson <= -0.99 for law in found):
            reached.append(f"{images:,}")
        cells.append([f"{images:,}"] + [f"{x:.4f}" for law in found for x in (law.b, law.pearson)])
    heads = ("images", "b, loss of the last scale", "r", "b, loss of all scales", "r")
    text = "The same runs on their way (the learning rate is flat and averaged weights are "
    text += "measured, so every moment stands for a sweep that ended there); r is -0.99 or better "
    text += f"for both losses after {', '.join(reached) or 'no number of'} images:\n\n"
    return text + table(heads, cells) + "\n"


def _bends(rows: Sequence[Row], fits: Sequence[Row]) -> str:
    """What keeps a toy off its law: too few steps, and images that come again."""
    last, gains = max(r["images"] for r in rows), list(report_figures.second_half(rows).values())
    text = "Where the toy bends: over N, "
    for f in (f for f in fits if f["over"] == "n"):
        up = f["curvature"] > 0
        shape = f"bends {'up (gains flatten)' if up else 'down (gains grow)'}"
        shape = shape if f["bend"] > 0.3 else "scatters about its line"
        text += f"{NAMES[f['measure']]} {shape}; "
    text += "from half the length to the whole, the loss of all scales falls "
    text += f"by {100 * gains[0]:.1f} % at the smallest size and by {100 * gains[-1]:.1f} % at the "
    text += "largest, and a run that has learned what its size allows would gain nothing"
    if data := rows[0].get("data_images"):
        text += f". Of {data:,} training images, a run draws {last / data:.2f} times as many"
    if of := [f"{f['ends']} of {f['points']}" for f in fits if f["over"] == "c"]:
        text += ". Points of the frontier that are ends of runs, in the order above: "
        text += ", ".join(of) + "; the more there are, the further would longer runs move it"
    return text + ".\n\n"


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
        cells.append([name, r["rule"], with_error([r], "moved", 4),
                      *(with_error([r], f"kept_{k}", 4) for k in ("painted", "tokenizer")),
                      *(with_error([r], f"seam_{k}", 3) for k in
                        ("painted", "tokenizer", "pasted", "original")),
                      target, with_error([r], "accuracy_own_painted", 1, 100)])  # fmt: skip
    heads = ("task", "rule", "moved", "error in the kept area", "the tokenizer's own", "seam",
             "seam, tokenizer", "seam, pasted blindly", "seam, original", "class asked for, %",
             "own class, %")  # fmt: skip
    text += table(heads, cells) + "\nMean squares of pixels in [-1, 1]; seam: mean step across "
    text += (
        "the mask's edge; moved: how far the masked pixels are from the reconstruction's. Classes "
        f"are those that the {painting[0]['classifier']} sees. Rules: "
        "painted draws the tokens of the last map that the mask touches, and of coarser maps those "
        "it covers by half; touched draws all that it touches; paper is that of the official "
        "demonstration. For the box and around it, painted and paper draw the same tokens. "
        "Kept tokens were coded from the whole image, so coarse ones say something of what was "
        "under the mask; what was pasted blindly was told nothing (notebook 10, section 4).\n\n"
    )
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
        text += of_codes(mended)
        save(repair_bars(mended), figures / "repair.png")
        text += "![repair](figures/repair.png)\n\n"
    return text + provenance([*painting, *finer, *mended])


def cost(folder: Path, figures: Path) -> str:
    """How time and memory grow with image size, depth and batch."""
    text, rows = "## Growth of cost\n\n", rows_of(folder / "cost.csv")
    if not rows:
        return text + f"{NOT_MEASURED}: run `varmini bench --only cost`\n"
    paper = {"VAR": "n^4", "raster AR, no cache": "n^6"}
    fits = ((axis, report_figures.exponents(rows, axis)) for axis in ("side", "depth", "batch"))
    found = [(axis, r) for axis, of in fits for r in of]
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
    save(report_figures.cost_growth(rows), figures / "cost.png")
    return text + "![growth of cost](figures/cost.png)\n\n" + provenance(rows)


SECTIONS: tuple[Callable[[Path, Path], str], ...] = (
    tokenizers, comparison, minutes, ablation, infinity, scaling, live_scaling, tricks,
    tokenizer_tricks, zero_shot, likelihood, words, motion, cost,
)  # fmt: skip


def make(folder: Path) -> Path:
    """Writes results/README.md and results/figures/ from the tables in `folder`."""
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    text = "# Results\n\nMade by `make results` from the CSV files in this folder. The sweep over "
    text += "sizes, super-resolution and cost are of 26 November, the first edition (paths "
    text += "in their commands are those of that time); family, painting, repair and likelihood "
    text += "are of 29 and 30 November, as are text, video and the sweep on the live bed.\n\n"
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
