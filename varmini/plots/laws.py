"""Two power laws and a model on them: what its size allows, and what its compute allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .charts import ACCENT, BLUE, INK, MUTED, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Law = tuple[float, float]
"""(a, b) of a power law L = (a x)^b."""


def law_loss(size_law: Law, compute_law: Law, size: float, compute: float) -> tuple[float, float]:
    """What two laws L = (a x)^b say: the loss that `size` allows, and the one `compute` allows.

    A model that is both this small and this shortly trained is held by the larger of the two.

    Raises:
        ValueError: when size, compute or an a is not positive, or a law does not fall.
    """
    found = []
    for name, (a, b), x in (("size", size_law, size), ("compute", compute_law, compute)):
        if not (x > 0 and a > 0 and b < 0):
            raise ValueError(f"{name} is {x} with a={a}, b={b}: expected x > 0, a > 0 and b < 0")
        found.append(float((a * x) ** b))
    return found[0], found[1]


def on_the_law(
    size_law: Law = (2.0, -0.23),
    compute_law: Law = (2.2e-5, -0.13),
    *,
    size: float = 1.0,
    compute: float = 1e7,
    sizes: tuple[float, float] = (0.01, 10.0),
    computes: tuple[float, float] = (1e4, 1e10),
    units: tuple[str, str] = ("parameters (billions)", "training compute (PFlops)"),
) -> Figure:
    """Two fitted laws L = (a x)^b as lines, with one model's size and compute marked on them.

    Args:
        size_law, compute_law: (a, b) of the loss against size, and of the best loss against
            compute. The defaults are the paper's, for the last scale (section 5.2).
        size, compute: the model to mark, in the units of the laws.
        sizes, computes: the range of the axes.
        units: names of the axes.

    Raises:
        ValueError: as `law_loss`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    losses = law_loss(size_law, compute_law, size, compute)
    names = ("size", "compute")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
        rows = zip(axes, (size_law, compute_law), (size, compute), (sizes, computes), units)
        for (ax, (a, b), x, ends, unit), loss, name in zip(rows, losses, names):
            line = np.geomspace(*ends, 50)
            ax.plot(line, (a * line) ** b, color=BLUE)
            ax.plot([x], [loss], "o", color=ACCENT, markersize=9)
            ax.axhline(loss, color=ACCENT, linewidth=0.8, linestyle="--")
            ax.annotate(f"{loss:.3g}", (x, loss), (6, 6), textcoords="offset points", color=ACCENT)
            ax.set(xscale="log", yscale="log", xlabel=unit)
            ax.set_title(f"what {name} allows: loss = ({a:.3g} x)$^{{{b:.3g}}}$")
            ax.tick_params(axis="y", which="both", labelcolor=MUTED)
            ax.minorticks_off()
        low, high = axes[0].get_ylim()
        ticks = [tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
        axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        held = names[int(losses[1] > losses[0])]
        figure.suptitle(
            f"held back by its {held}: loss at least {max(losses):.3g}",
            x=0.01, ha="left", color=INK, fontsize=13,
        )  # fmt: skip
    return figure
