"""Words to pictures: trains Parti and Infinity on captioned scenes, and counts right garments.

    varmini compare --sweep --tokenizers 1 --out runs/comparison          # the bed's tokenizers
    python scripts/evidence/words.py --bed runs/comparison --out runs/words

Stopped, it goes on with the same command. Tables, in results/words: training.csv, a run each;
binding.csv, a run, a guidance and a set of pairs each. Rows whose system is "pictures" or a
tokenizer are of test images, as they are and after encoding and decoding: what the evaluator says
of perfect drawings. And samples.png: held-out captions, drawn by the first seed of both systems,
nothing picked; samples.csv says from where.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from varmini.data import to_float
from varmini.experiments import words
from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.training import finished
from varmini.plots import image_grid, save
from varmini.runtime.distributed import progress
from varmini.runtime.tables import RESULTS, Row, append_row, origin, read_rows, rows_of, write_rows
from varmini.zoo.text.grammar import captions
from varmini.zoo.text.scenes import HELD_OUT, scenes, side_by_side

REPEATS = {"held out": 20, "seen": 3}
"""Drawings of each pair: 400 and 240 in all."""
SHOWN = ((5, 8), (8, 5), (4, 1), (3, 0), (7, 4), (9, 6), (2, 9))
"""Held-out pairs in the picture."""


def once(path: Path, key: Row, make: Callable[[], Row]) -> None:
    """Adds the row with this key to a table, if it is not there."""
    if not any(all(row.get(k, "") == v for k, v in key.items()) for row in rows_of(path)):
        append_row(path, key | make() | origin())


def trained(codes: Codes, name: str, seed: int, images: int, out: Path) -> Row:
    training, folder = words.recipe(name, images, seed), out / f"{name}-s{seed}"
    if not finished(folder, training):
        words.train_system(codes, name, training, folder)
    last = read_rows(folder / "log.csv")[-1]
    size = sum(p.numel() for p in words.new_model(name).parameters())
    kept = ("images", "seconds", "loss", "val_loss", "val_loss_held_out")
    return {"parameters": size, "lr": training.lr} | {k: last[k] for k in kept}


def drawn(codes: Codes, name: str, folder: Path, key: Row) -> Row:
    wanted = words.asked(words.PAIRS[key["pairs"]], REPEATS[key["pairs"]])
    pictures = words.draw_scenes(codes, words.finished_model(name, folder), [w[0] for w in wanted],
                                 seed=key["seed"], guidance=key["guidance"])  # fmt: skip
    return words.count_right(codes.evaluator, pictures, torch.tensor([w[1:] for w in wanted]))


def real(codes: Codes, system: str, pairs: str) -> Row:
    """Test images of these pairs, as they are or through a tokenizer, each half by itself."""
    test = codes.images["test"]
    images, labels = to_float(test.images), test.labels
    rows, _ = next(scenes(labels, 500, seed=0, pairs=words.PAIRS[pairs]))
    if system != "pictures":
        tok, used = codes.tokenizer(system), rows.unique()
        with torch.no_grad():
            images[used] = tok.decode(tok.encode(images[used]))
    return words.count_right(codes.evaluator, side_by_side(images, rows), labels[rows])


def best_guidance(table: Path, name: str) -> float:
    """The guidance with most right scenes of seen pairs, over the seeds measured."""
    found: dict[float, list[float]] = {}
    for row in rows_of(table):
        if (row["system"], row["pairs"]) == (name, "seen"):
            found.setdefault(row["guidance"], []).append(row["both"])
    return max(found, key=lambda s: sum(found[s]) / len(found[s]))


def samples(codes: Codes, seed: int, out: Path, csv: Path) -> None:
    """Draws the picture and its table."""
    assert set(SHOWN) <= set(HELD_OUT)
    texts = [captions(*pair)[i % 4] for i, pair in enumerate(SHOWN)]
    parts, rows = [], []
    for name, title in (("parti", "Parti"), ("text-infinity", "Infinity")):
        model = words.finished_model(name, out / f"{name}-s{seed}")
        guidance = best_guidance(csv / "binding.csv", name)
        for number in (1, 2):
            parts.append(words.draw_scenes(codes, model, texts, seed=number, guidance=guidance))
        rows += [title, ""]
        row = {"system": name, "seed": seed, "guidance": guidance, "captions": "; ".join(texts)}
        write_rows(csv / "samples.csv", [*rows_of(csv / "samples.csv"), row | origin()])
    heads = [text.replace(" left of", "\nleft of").replace(" right of", "\nright of")
             .replace(" on the", "\non the") for text in texts]  # fmt: skip
    save(image_grid(torch.cat(parts), len(texts), heads, rows=rows), csv / "samples.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bed", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--out", type=Path, default=Path("runs/words"))
    parser.add_argument("--csv", type=Path, default=RESULTS / "words")
    parser.add_argument("--systems", nargs="+", default=list(words.TOKENIZERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(5)])
    parser.add_argument("--images", type=int, default=24_000, help="scenes of a training")
    args = parser.parse_args()
    codes = Codes(Bed(), args.bed)
    table = args.csv / "binding.csv"
    for pairs in words.PAIRS:
        for system in ("pictures", *words.TOKENIZERS.values()):
            once(table, {"system": system, "seed": "", "guidance": "", "pairs": pairs},
                 partial(real, codes, system, pairs))  # fmt: skip
    for seed, name in progress([(s, n) for s in args.seeds for n in args.systems], "systems"):
        once(args.csv / "training.csv", {"system": name, "seed": seed},
             partial(trained, codes, name, seed, args.images, args.out))  # fmt: skip
        for guidance in words.GUIDANCE:
            for pairs in words.PAIRS:
                key = {"system": name, "seed": seed, "guidance": guidance, "pairs": pairs}
                once(table, key, partial(drawn, codes, name, args.out / f"{name}-s{seed}", key))
    if set(args.systems) == set(words.TOKENIZERS) and not (args.csv / "samples.png").exists():
        samples(codes, args.seeds[0], args.out, args.csv)


if __name__ == "__main__":
    main()
