"""How long each system of the family trains: results/comparison/minutes.csv.

    python scripts/evidence/family_minutes.py --runs runs/comparison     # five minutes, quiet

A training of 30 steps of each, in a folder that is thrown away. Its last 20 steps tell the time of
the whole budget. The tokenizers that generators need are those of --runs, or have random weights.
A system that the table has is left as it is, so a stopped run goes on; those of --only are measured
anew.

`in_all` estimates `varmini compare NAME` from nothing: the tokenizer's training (for TiTok's its
proxy's, too), encoding, the generator's training with its held-out losses, and the pictures.
The systems with words (kind "text") read with an encoder that is trained once, before them.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import varmini  # noqa: F401  # before torch, which reads once how threads wait

# isort: split
import torch
from torch import Tensor

from varmini.experiments import words
from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.measure import draw_many, finished_model, recipe, train_method
from varmini.experiments.comparison.methods import COMPARED, METHODS, tokenizer_of
from varmini.experiments.comparison.tokenizers import FAMILY, LIVE, train_tokenizer
from varmini.runtime.machine import kind_of_machine
from varmini.runtime.tables import RESULTS, Row, origin, read_rows, write_rows
from varmini.training.loop import Loop

FIRST, STEPS, POINTS = 10, 20, 4
SCENES = 24_000
"""Of a training with words (results/words)."""


def seconds(run: Callable[..., object], *args: object) -> float:
    """Of a call."""
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def seconds_a_step(run: Callable[[int], object]) -> float:
    """Of the steps of a run after the first, which are slower."""
    ends: list[float] = []

    def show(loop: Loop, loss: Tensor) -> None:
        ends.append(time.perf_counter())
        real(loop, loss)

    real = Loop.show
    with mock.patch.object(Loop, "show", show):
        run(FIRST + STEPS)
    return (ends[-1] - ends[FIRST - 1]) / STEPS


def of_tokenizer(codes: Codes, name: str, folder: Path) -> Row:
    """How long a tokenizer trains, by 20 of its steps; k-means for iGPT's palette."""

    def run(steps: int) -> None:
        short = dataclasses.replace(codes.bed, tokenizer_images=steps * LIVE.batch_size)
        proxy = codes.tokenizer("titok-proxy") if name == "titok" else None
        train_tokenizer(name, short, folder / f"{name}-{steps}", 0, proxy)

    if name == "palette":
        return {"minutes": seconds(run, 1) / 60}
    steps, each = codes.bed.tokenizer_images // LIVE.batch_size, seconds_a_step(run)
    return {"steps": steps, "ms_a_step": 1000 * each, "minutes": steps * each / 60}


def of_generator(codes: Codes, name: str, folder: Path) -> Row:
    """How long a generator trains, and what `varmini compare` takes around it."""

    def run(steps: int, points: int = 1) -> None:
        train_method(codes, name, folder / f"{name}-{steps}-{points}",
                     recipe(codes, 1.0, 0, steps * codes.bed.batch_size, points))  # fmt: skip

    def draw() -> None:
        method, labels = METHODS[name], torch.arange(codes.num_classes).repeat(4)
        options = next(iter(method.drawings.values()))
        draw_many(codes, name, finished_model(codes, name), labels, 0, guidance=method.guidance,
                  **options)  # fmt: skip

    start = seconds(run, 8, POINTS)  # encodes, and measures the held-out loss so often
    steps, each = codes.bed.images // codes.bed.batch_size, seconds_a_step(run)
    return {"steps": steps, "ms_a_step": 1000 * each, "minutes": steps * each / 60,
            "around": (start - 8 * each + seconds(draw)) / 60}  # fmt: skip


def of_text(codes: Codes, name: str, folder: Path) -> Row:
    """How long a system with words trains, or their encoder."""
    if name == "text-encoder":
        return {"minutes": seconds(words.reading_model, "parti") / 60}

    def run(steps: int) -> None:
        recipe = words.recipe(name, steps * batch, 0)
        with mock.patch.object(words, "pretrain", lambda text, heads: text.requires_grad_(False)):
            words.train_system(codes, name, recipe, folder / f"{name}-{steps}")

    batch = words.recipe(name, SCENES, 0).batch_size
    steps, each = SCENES // batch, seconds_a_step(run)
    return {"steps": steps, "ms_a_step": 1000 * each, "minutes": steps * each / 60}


def in_all(rows: list[Row]) -> list[Row]:
    """The rows, with `in_all` minutes where everything that is needed was measured."""
    minutes = {(r["kind"], r["system"]): r["minutes"] for r in rows}
    for row in rows:
        kind = tokenizer_of(row["system"]) if row["kind"] == "generator" else row["system"]
        first = [kind] * (kind != "") + ["titok-proxy"] * (kind == "titok")
        parts = [minutes.get(("tokenizer", name)) for name in first]
        if None not in parts:
            own = row["minutes"] + row["around"] if row["kind"] == "generator" else 0
            row["in_all"] = sum(parts) + own
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--table", type=Path, default=RESULTS / "comparison" / "minutes.csv")
    parser.add_argument("--only", nargs="*", default=())
    args = parser.parse_args()
    codes = Codes(Bed(), args.runs, untrained=True)
    rows = read_rows(args.table) if args.table.exists() else []
    done = {(r["system"], r["kind"]) for r in rows}
    tokenizers = (*FAMILY, "titok-proxy", "palette")
    text = ("text-encoder", *words.TOKENIZERS)
    kinds = {"tokenizer": (of_tokenizer, tokenizers), "generator": (of_generator, COMPARED),
             "text": (of_text, text)}  # fmt: skip
    for kind, (measure, names) in kinds.items():
        for name in names:
            if name in args.only or not args.only and (name, kind) not in done:
                with tempfile.TemporaryDirectory() as folder:
                    row = {"system": name, "kind": kind} | measure(codes, name, Path(folder))
                row |= {"machine": kind_of_machine()} | origin()
                rows = [r for r in rows if (r["system"], r["kind"]) != (name, kind)] + [row]
                write_rows(args.table, in_all(rows))
                print({k: v for k, v in row.items() if "minutes" in k or k == "in_all"}, name,
                      flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
