"""The section of results/README.md on text: scenes of two garments, drawn from captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from wording import NOT_MEASURED, provenance, table, with_error

from varmini.runtime.tables import Row, rows_of

SYSTEMS = {"parti": "Parti", "text-infinity": "Infinity from text"}
STEPS = {"parti": 32, "text-infinity": 4}
BOUNDS = {"pictures": "test images", "vqgan": "through Parti's tokenizer",
          "multiscale-bsq": "through Infinity's tokenizer"}  # fmt: skip
GOAL = 0.7


def words(folder: Path, figures: Path) -> str:
    """What Parti and Infinity draw of captions whose pairs no training showed."""
    folder, text = folder / "words", "## Text: scenes of two garments\n\n"
    rows, runs = rows_of(folder / "binding.csv"), rows_of(folder / "training.csv")
    if not rows or not runs:
        return text + f"{NOT_MEASURED}: run `python scripts/evidence/words.py`\n"
    of = {name: [r for r in runs if r["system"] == name] for name in SYSTEMS}
    edge = [SYSTEMS[n] for n in of if chosen(rows, n) in strengths(rows, n)[-1:]]
    trained = "; ".join(f"{SYSTEMS[name]}: {r[0]['parameters']:,} parameters, "
                        f"{min(x['seconds'] for x in r) / 60:.1f} to "
                        f"{max(x['seconds'] for x in r) / 60:.1f} minutes"
                        for name, r in of.items() if r)  # fmt: skip
    text += (
        'Captions such as "a sandal left of a bag" ask for two garments side by side. 20 of the '
        "100 pairs occur in no training; the captions of these are measured, 20 drawings a pair "
        "and seed. The evaluator, which took part in no training, names the garment in each half. "
        "Swapped: both are there, on the wrong sides. Guidance was chosen on seen pairs alone "
        f"(that of {', '.join(edge) or 'none'} is the largest tried). "
        f"Trainings of {runs[0]['images']:,} scenes on one core, beside other work; {trained}. The "
        "rows of test images are what the evaluator says of true scenes, as they are and through "
        "a tokenizer. Guidance draws typical garments, so that a system can pass these rows. "
        "In percent, ± standard error: over seeds, but no less than that of the draws.\n\n"
    )  # fmt: skip
    heads = ("system", "steps", "guidance", "left", "right", "swapped", "both, held-out pairs",
             "both, seen pairs", "seeds")  # fmt: skip
    text += table(heads, [cells(rows, system) for system in (*BOUNDS, *SYSTEMS)])
    text += "\nBoth halves right, held-out pairs, over guidance:\n\n" + over_guidance(rows)
    text += "\n" + goal(rows)
    if (folder / "samples.png").exists():
        text += "Held-out captions, first seed, nothing picked:\n\n"
        text += "![scenes drawn from captions](words/samples.png)\n\n"
    return text + provenance([*runs, *rows])


def some(rows: Sequence[Row], system: str, pairs: str, guidance: float | None = None) -> list[Row]:
    """Rows of a system, with the standard errors of their shares."""
    found = [r for r in rows if (r["system"], r["pairs"]) == (system, pairs)
             and r.get("guidance") == guidance]  # fmt: skip
    errors = {f"{k}_se": k for k in ("left", "right", "swapped", "both")}
    return [r | {se: (r[k] * (1 - r[k]) / r["n"]) ** 0.5 for se, k in errors.items()}
            for r in found]  # fmt: skip


def strengths(rows: Sequence[Row], system: str) -> list[float]:
    """The guidance measured."""
    return sorted({r["guidance"] for r in rows if r["system"] == system and "guidance" in r})


def chosen(rows: Sequence[Row], system: str) -> float | None:
    """The guidance with most right scenes of seen pairs; None where there is no guidance."""
    return max(strengths(rows, system), default=None,
               key=lambda s: fmean(r["both"] for r in some(rows, system, "seen", s)))  # fmt: skip


def cells(rows: Sequence[Row], system: str) -> list[str]:
    """A row of the table."""
    guidance = chosen(rows, system)
    unseen, seen = (some(rows, system, pairs, guidance) for pairs in ("held out", "seen"))
    shares = [with_error(unseen, k, 1, 100) for k in ("left", "right", "swapped", "both")]
    told = [str(STEPS[system]), f"{guidance:g}"] if guidance is not None else ["", ""]
    return [(SYSTEMS | BOUNDS)[system], *told, *shares, with_error(seen, "both", 1, 100),
            str(len(unseen)) if guidance is not None else ""]  # fmt: skip


def over_guidance(rows: Sequence[Row]) -> str:
    """A row a system, a column a guidance."""
    heads = sorted({s for name in SYSTEMS for s in strengths(rows, name)})
    return table(["system", *(f"{s:g}" for s in heads)],
                 [[title, *(with_error(some(rows, name, "held out", s), "both", 1, 100)
                            for s in heads)] for name, title in SYSTEMS.items()])  # fmt: skip


def goal(rows: Sequence[Row]) -> str:
    """What was aimed at, and whether it was reached."""
    told = []
    for name, title in SYSTEMS.items():
        if unseen := some(rows, name, "held out", chosen(rows, name)):
            both = fmean(r["both"] for r in unseen)
            told.append(f"{title} {100 * both:.0f} % ({'reached' if both >= GOAL else 'missed'})")
    return (f"Aimed at: both halves right in {100 * GOAL:.0f} % of held-out captions (by guessing: "
            f"1 %). {'; '.join(told) or NOT_MEASURED}.\n\n")  # fmt: skip
