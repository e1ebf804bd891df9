"""The section of results/README.md on the sweep that a reader can run: laws, and equal compute."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from wording import NOT_MEASURED, provenance, table

from varmini.experiments.figures import NAMES
from varmini.experiments.scaling.fits import ends_of, laws
from varmini.experiments.scaling.floors import floors
from varmini.plots.charts import STYLE, shades
from varmini.plots.images import save
from varmini.runtime.tables import Row, rows_of, write_rows

TFLOP = 1e12
COMMAND = "varmini scaling --data fashion-subset"


def live_scaling(folder: Path, figures: Path) -> str:
    """Laws with a floor on the live bed, and which size is best at equal compute."""
    rows = rows_of(folder / "scaling" / "fashion" / "sweep.csv")
    text = "## Scaling on the live bed\n\n"
    if len({r["depth"] for r in rows}) < 4:
        return text + f"{NOT_MEASURED}: run `{COMMAND} --csv results/scaling/fashion/sweep.csv`\n"
    of_floors = floors(rows)
    for name, fits in (("laws", laws(rows)), ("floors", of_floors)):
        write_rows(folder / "scaling" / "fashion" / f"{name}.csv", fits)
    ends, seeds = ends_of(rows), len({r["seed"] for r in rows})
    images, data = ends[0]["images"], ends[0]["data_images"]
    text += f"`{COMMAND}`: {seeds} seeds a size, {images:,} images drawn from {data:,}, "
    text += f"{ends[0]['tokens']} tokens each; loss on {ends[0]['held_out']:,} test images, mean "
    text += f"of the seeds. {_unfinished(rows)}"
    for r in (r for r in rows_of(folder / "scaling" / "fashion" / "minutes.csv") if not r["depth"]):
        text += f"It takes about {r['minutes']:.0f} minutes of one core with {r['instructions']} "
        text += "instructions in float32, reckoned from the processor time of some steps of each "
        text += "size (`scripts/evidence/sweep_minutes.py`). "
    text = text.rstrip() + "\n\n"
    cells = []
    for n in sorted({r["n"] for r in ends}):
        of = [r for r in ends if r["n"] == n]
        means = [f"{np.mean([r[m] for r in of]):.3f}" for m in ("loss", "loss_last")]
        seen = f"{images * of[0]['tokens'] / n:.1f}"
        cells.append([str(of[0]["depth"]), f"{n:,}", seen, *means])
    text += table(("d", "N", "tokens a parameter", "loss of all scales", "of the last"), cells)
    return text + _laws(of_floors) + _equal_compute(rows, figures) + provenance(rows)


def _unfinished(rows: Sequence[Row]) -> str:
    """Which depths the command asked for and the table lacks."""
    asked = re.search(r"--depths ((?:\d+ ?)+)", rows[0]["command"])
    lacking = {int(d) for d in asked[1].split()} - {r["depth"] for r in rows} if asked else ()
    return f"Depth {', '.join(map(str, sorted(lacking)))} was not finished. " if lacking else ""


def _laws(found: Sequence[Row]) -> str:
    """The laws over N with a floor."""
    text = "\nL = E + (a N)^b, fitted and asked for the largest size as above:\n\n"
    heads = ("law", "E", "interval of E", "b", "interval of b", "r", "miss", "without a floor",
             "next largest")  # fmt: skip
    cells = [
        [f"{NAMES[f['measure']]} over N", f"{f['floor']:.3f}",
         f"{f['floor_low']:.3f} to {f['floor_high']:.3f}", f"{f['b']:.3f}",
         f"{f['b_low']:.3f} to {f['b_high']:.3f}", f"{f['pearson']:.4f}",
         *(f"{100 * f[name]:+.2f} %" for name in ("miss", "pure_miss", "next_miss"))]
        for f in found
    ]  # fmt: skip
    return text + table(heads, cells) + "\n"


def at_compute(rows: Sequence[Row], budget: float) -> dict[int, float]:
    """{n: the loss that size n had after `budget` FLOPs}, between its moments by log compute.

    The mean over seeds; sizes whose moments do not reach around the budget are left out.
    """
    found = {}
    for n in sorted({r["n"] for r in rows}):
        moments = sorted({r["flops"] for r in rows if r["n"] == n})
        if moments[0] <= budget <= moments[-1]:
            means = [np.mean([r["loss"] for r in rows if (r["n"], r["flops"]) == (n, flops)])
                     for flops in moments]  # fmt: skip
            found[n] = float(np.interp(np.log(budget), np.log(moments), means))
    return found


def budgets(rows: Sequence[Row]) -> list[float]:
    """Up to five budgets in FLOPs, a geometric row, each of which three sizes or more spent."""
    flops = [r["flops"] for r in rows]
    every = np.geomspace(min(flops), max(flops), 60)
    kept = [c for c in every if len(at_compute(rows, c)) >= 3]
    return [float(c) for c in np.geomspace(kept[0], kept[-1], 5)] if kept else []


def _equal_compute(rows: Sequence[Row], figures: Path) -> str:
    """Loss over sizes at equal compute (isoFLOP curves, Hoffmann et al. 2022, section 3.2)."""
    late = [r for r in rows if r["step"] >= 100]  # not while averages hold the first weights
    spent = budgets(late)
    text = "\nAt equal compute (isoFLOP curves): the loss of all scales that each size had when it "
    text += "had spent so much, in TFlops of training. The learning rate is flat and averaged "
    text += "weights are measured, so every moment stands for a run that ended there, not for "
    text += "the best one of that length: a run with a decay would end lower. Data come again, "
    text += "too: at the same compute a small size has seen each image more often.\n\n"
    sizes, found = sorted({r["n"] for r in rows}), [at_compute(late, c) for c in spent]
    cells = [[f"{c / TFLOP:.2f}", *(f"{of[n]:.3f}" if n in of else "" for n in sizes),
              f"{min(of, key=of.get):,}" if min(of, key=of.get) not in (min(of), max(of))
              else "at an edge"] for c, of in zip(spent, found)]  # fmt: skip
    text += table(("TFlops", *(f"N = {n:,}" for n in sizes), "best size"), cells) + "\n"
    save(curves(spent, found), figures / "equal_compute.png")
    return text + "![loss over size at equal compute](figures/equal_compute.png)\n\n"


def curves(spent: Sequence[float], found: Sequence[dict[int, float]]) -> Figure:
    """The isoFLOP curves, a line a budget."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        for c, of, colour in zip(spent, found, shades(len(spent))):
            label = f"{c / TFLOP:.2f} TFlops"
            ax.plot(list(of), list(of.values()), "o-", color=colour, label=label)
        ax.set(xscale="log", xlabel="N, parameters in the blocks", ylabel="loss, nats")
        ax.set_title("Loss at equal compute, live bed")
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
