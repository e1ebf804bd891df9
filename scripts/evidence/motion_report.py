"""The section of results/README.md on video: moving garments, drawn and continued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from wording import NOT_MEASURED, number, provenance, table, with_error

from varmini.runtime.tables import Row, rows_of

NAMES = {"real": "other real videos", "tokenizer, pyramid": "tokenizer of InfinityStar",
         "tokenizer, grid": "tokenizer of MAGVIT", "infinity-star": "InfinityStar",
         "magvit": "MAGVIT"}  # fmt: skip
GIFS = ("real", "infinity-star", "magvit", "image_to_video", "continue")


def motion(folder: Path, figures: Path) -> str:
    """What InfinityStar and MAGVIT draw of moving garments."""
    folder, text = folder / "motion", "## Video: moving garments\n\n"
    rows = rows_of(folder / "motion.csv")
    if not rows:
        return text + f"{NOT_MEASURED}: run `python scripts/evidence/motion.py --measure`\n"
    text += (
        f"{rows[0]['videos']} videos of 13 frames, of garments that no training saw. Measured by a "
        "network of videos that was trained apart, on real ones: Frechet distance of its features "
        "to those of other real videos (no published measure), share of frames in which it names "
        "the class asked for, and of frames that have the class of the frame before. Pixels a "
        "frame: the way of the centre of mass. Error: its mean distance in pixels to where the "
        "garment truly goes, in frames that were not given; beside it that of a garment frozen in "
        "the last given frame, and in the first of all. From one given frame nobody can tell where "
        "it flies; from five one can. The row of real videos is the bound, those of the tokenizers "
        "are what their systems could reach at best; they may flatter, for the perceptual term of "
        "their training is a network of the evaluator's kind, with another seed. MAGVIT was "
        "trained with `--written-out` attention, equal up to rounding. Options of "
        "drawing were chosen on other videos, with the first seed "
        f"([choices.csv](motion/choices.csv)).{minutes(rows_of(folder / 'minutes.csv'))}\n\n"
    )
    heads = ("system", "task", "given", "steps", "Frechet distance", "class kept, %", "steady, %",
             "pixels a frame", "error", "frozen in the last", "in the first", "seeds")  # fmt: skip
    text += table(heads, [cells(of) for of in groups(rows)]) + "\n" + goals(rows)
    for name in GIFS:
        if (folder / f"{name}.gif").exists():
            text += f"![{name}](motion/{name}.gif)\n\n"
    text += "Rows of the last two: truth, InfinityStar, MAGVIT.\n\n"
    return text + provenance(rows)


def minutes(rows: Sequence[Row]) -> str:
    """How long the trainings take, and which take longer than four minutes."""
    if not rows:
        return ""
    told = ", ".join(f"{r['training']} {r['minutes']:.1f}" for r in rows)
    over = [r["training"] for r in rows if round(r["minutes"], 1) > 4]
    return (f" Minutes of training with {rows[0]['threads']} threads on {rows[0]['machine']} "
            f"(emulated, where the hardware has more), estimated from 20 steps of each: {told} "
            f"([minutes.csv](motion/minutes.csv)). Aimed at: four. Over that: "
            f"{', '.join(over) or 'none'}.")  # fmt: skip


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of one system and task, over seeds."""
    keys = dict.fromkeys((r["system"], r["task"]) for r in rows)
    return [[r for r in rows if (r["system"], r["task"]) == key] for key in keys]


def cells(of: Sequence[Row]) -> list[str]:
    """A row of the table."""
    first, drawn = of[0], bool(of[0]["steps"])

    def told(name: str, digits: int = 2, scale: float = 1) -> str:
        return f"{scale * fmean(r[name] for r in of):.{digits}f}"

    off = ["", "", ""]
    if "error" in first:
        off = [with_error(of, "error"), told("frozen"), told("frozen_first")]
    return [NAMES[first["system"]], str(first["task"]), str(first["given"]) if drawn else "",
            str(first["steps"]) if drawn else "", told("frechet"), with_error(of, "kept", 1, 100),
            told("steady", 1, 100), told("speed"), *off, str(len(of)) if drawn else ""]  # fmt: skip


def goals(rows: Sequence[Row]) -> str:
    """What was aimed at, and whether it was reached."""
    told = []
    for of in groups(rows):
        if of[0]["task"] == "continue":
            kept = fmean(r["kept"] for r in of)
            ratio = fmean(r["error"] for r in of) / fmean(r["frozen_first"] for r in of)
            told.append(f"{NAMES[of[0]['system']]} keeps the class in {100 * kept:.0f} % "
                        f"({'reached' if kept >= 0.8 else 'missed'}), and its error is "
                        f"{number(ratio)} times that of a frozen first frame "
                        f"({'reached' if ratio <= 0.5 else 'missed'})")  # fmt: skip
    aimed = "Aimed at in continuation: class kept in 80 % of frames, at most half the error of a "
    return f"{aimed}frozen first frame. {'; '.join(told) or NOT_MEASURED}.\n\n"
