"""The sections of results/README.md on what was tried with CIFAR-10's transformer and tokenizer."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

from tokenizer_tricks import VARIANTS as CHANGES
from tricks import VARIANTS
from wording import NOT_MEASURED, provenance, table

from varmini.evaluation.statistics import holm, welch
from varmini.runtime.tables import Row, rows_of

LOSSES = {"loss": "all tokens", "loss_last": "last scale"}


def tricks(folder: Path, figures: Path) -> str:
    """Each variant beside its base."""
    rows, cost = rows_of(folder / "cifar_tricks.csv"), rows_of(folder / "cifar_tricks_cost.csv")
    text = "## What helps per FLOP: short runs of CIFAR-10's transformer\n\n"
    if not rows:
        return text + f"{NOT_MEASURED}: run `python scripts/evidence/cifar_tricks.py`\n"
    of = {name: [r for r in rows if r["variant"] == name] for name in VARIANTS}
    of = {name: runs for name, runs in of.items() if len(runs) >= max(2, len(of["base"]))}
    changed = [name for name in of if name != "base" and VARIANTS[name].against in of]
    found = {(name, m): welch(*([r[m] for r in of[side]] for side in
                                (name, VARIANTS[name].against)))
             for name in changed for m in LOSSES}  # fmt: skip
    adjusted = dict(zip(found, holm([d.p for d in found.values()])))
    seconds = {r["variant"]: r["ratio"] for r in cost}
    base = of["base"][0]
    text += (
        f"Size d = 3 of the sweep above (depth 3, width 72) and one change each, {len(of['base'])} "
        f"seeds, {base['images']:,} images (a variant of another size: as many as the same FLOPs "
        "allow), the same images in the same order from the same seeds; rates are the sweep's and "
        "were searched for no variant. FLOPs are those of the networks, of a training image and "
        "relative to the base; seconds those of a processor for whole steps on one thread, in turn "
        "with the base. "
        f"Held-out cross-entropy in nats a token ({base['held_out']} test images, averaged "
        "weights), mean and standard error over seeds; differences with Welch's interval, p-values "
        "adjusted for the whole table (Holm). Lower in: seeds in which the loss of all tokens is "
        "lower than the base's of that seed. Flipped, moved: loss of all tokens where the input's "
        "codes are damaged as those variants train, on half of the images. "
        f"{found[changed[0], 'loss']}: the table says what is worth more seeds.\n\n"
    )
    heads = ("variant", "FLOPs", "seconds", "images", "loss", "difference", "p", "lower in",
             "difference, last scale", "p", "flipped", "moved")  # fmt: skip
    cells = []
    for name, runs in of.items():
        v, told = VARIANTS[name], [""] * 5
        if name in changed:
            known = {r["seed"]: r["loss"] for r in of[v.against]}
            pairs = [r["loss"] < known[r["seed"]] for r in runs if r["seed"] in known]
            one, two = ([difference(found[name, m]), f"{adjusted[name, m]:.2g}"] for m in LOSSES)
            told = [*one, f"{sum(pairs)} of {len(pairs)}", *two]
        change = f"{name}: {v.change} ({v.source})" if v.change else f"{name} ({v.source})"
        change += f", against {v.against}" * (v.against != "base")
        cells.append([change, f"{runs[0]['flops_ratio']:.2f}",
                      f"{seconds[name]:.2f}" if name in seconds else NOT_MEASURED,
                      f"{runs[0]['images']:,}", over_seeds(runs, "loss"), *told,
                      *(over_seeds(runs, f"loss_{m}") for m in ("flipped", "moved"))])  # fmt: skip
    return text + table(heads, cells) + "\n" + finding(of, changed) + provenance([*rows, *cost])


def finding(of: dict[str, list[Row]], changed: list[str]) -> str:
    """What every seed agrees on, and what was not tried."""
    text = ""
    for measure, told in LOSSES.items():
        sides: dict[str, list[str]] = {"lower": [], "higher": [], "mixed": []}
        for name in changed:
            known = {r["seed"]: r[measure] for r in of[VARIANTS[name].against]}
            gaps = [r[measure] - known[r["seed"]] for r in of[name] if r["seed"] in known]
            side = "lower" if max(gaps) < 0 else "higher" if min(gaps) > 0 else "mixed"
            sides[side].append(f"{name} ({fmean(gaps):+.3f})")
        lower, higher, mixed = (", ".join(names) or "none" for names in sides.values())
        text += (f"Loss, {told}: lower in every seed with {lower}; higher in every seed with "
                 f"{higher}; on both sides with {mixed}. ")  # fmt: skip
    return text + (f"No mean of {len(of['base'])} seeds is a verdict, and what helps a run this "
                   "short may not help a long one. Not tried: rates of SOAP and AdamW.\n\n"
                   )  # fmt: skip


TOKENIZER = {  # a column, how many digits, times what
    "psnr": ("PSNR, dB", 2, 1), "kept": ("own class, %", 1, 100), "frechet": ("Frechet", 3, 1),
    "psnr_3": ("PSNR, 3 scales", 2, 1), "frechet_3": ("Frechet, 3 scales", 3, 1),
    "psnr_wrong": ("PSNR, wrong codes", 2, 1), "frechet_wrong": ("Frechet, wrong codes", 3, 1),
    "least_used": ("least used, %", 1, 100),
}  # fmt: skip


def tokenizer_tricks(folder: Path, figures: Path) -> str:
    """Each change to the tokenizer's training beside none."""
    rows = rows_of(folder / "tokenizer_tricks.csv")
    text = "## Changes to the training of CIFAR-10's tokenizer: short runs\n\n"
    if not rows:
        return text + f"{NOT_MEASURED}: run `python scripts/evidence/tokenizer_tricks.py`\n"
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row["variant"], []).append(row)
    base = of["base"]
    known = {r["seed"]: r for r in base}
    agreed = []
    for name in (n for n in of if n != "base"):
        gaps = {m: [r[m] - known[r["seed"]][m] for r in of[name] if r["seed"] in known]
                for m in TOKENIZER}  # fmt: skip
        told = [f"{TOKENIZER[m][0]} ({fmean(d) * TOKENIZER[m][2]:+.3g})"
                for m, d in gaps.items() if min(d) > 0 or max(d) < 0]  # fmt: skip
        agreed.append(f"with {name} {', '.join(told) or 'nothing'}")
    text += (
        f"The preset `cifar10` and one change each, {len(base)} seeds, {base[0]['images']:,} "
        "images (the shipped tokenizer saw 300,000), weights averaged over 50 steps, measured on "
        f"{base[0]['held_out']:,} test images by CIFAR-10's evaluator: reconstructions, "
        "those from the first three of five scales, and those with a tenth of the codes replaced "
        "by one of their 25 nearest. Least used: the least used scale's share of the codes that it "
        "could show. Mean and standard error over seeds. "
    )
    text += " ".join(f"{n.capitalize()}: {v.change} ({v.source})."
                     for n, v in CHANGES.items() if v.change)  # fmt: skip
    text += "\n\n" + table(
        ["variant", *(head for head, _, _ in TOKENIZER.values())],
        [[name, *(over_seeds(runs, m, digits, scale)
                  for m, (_, digits, scale) in TOKENIZER.items())] for name, runs in of.items()],
    )  # fmt: skip
    return text + (
        f"\nOn the same side of the base in every seed: {'; '.join(agreed)}. No mean of "
        f"{len(base)} seeds is a verdict, and no transformer was trained on these tokenizers. "
        "SimVQ was not tried.\n\n"
    ) + provenance(rows)


def over_seeds(runs: list[Row], name: str, digits: int = 3, scale: float = 1) -> str:
    """Mean and standard error over seeds."""
    values = [scale * r[name] for r in runs]
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{fmean(values):.{digits}f} ± {error:.{digits}f}"


def difference(found) -> str:
    """A difference of means with its interval."""
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
