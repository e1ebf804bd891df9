"""Scores the live bed with the independent evaluator: results/live_bed.csv.

    python scripts/evidence/live_bed.py --tokenizer fashion --var fashion

The evaluator takes part in no training (`train_evaluator.py`); rows until 29 November name it by
the script that trained it then, this one. Set VARMINI_DATA for the 10,000 test images. A row is 500
samples, 50 a class, at guidance 1.5: the share that it takes for the class asked for, and the
Frechet distance of its averaged last features to those of the test images.

Seconds in the table are those on the reference (two cores of an AMD EPYC with AVX2, float32): the
preset until e1db90b trained 128 and 65 images a second there, and 5bf4597 of this script measured
how much quicker today's preset is, in seconds of the processor. The row "poor, emulated: AVX2,
float32, 2 threads" holds the seconds of its own run of `varmini demo`, on the hardware it names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.data import load_images, to_float
from varmini.evaluation.evaluators import classifier_evaluator
from varmini.evaluation.metrics import frechet_distance
from varmini.runtime.machine import provenance
from varmini.runtime.tables import RESULTS, read_rows, write_rows

CLASSES, ROWS, GUIDANCE = 10, 50, 1.5


def score(args: argparse.Namespace) -> dict[str, object]:
    """One row: own class and Frechet distance of 500 samples, or of 500 training images."""
    evaluator = classifier_evaluator(args.evaluator, kind="evaluator")
    test = load_images("fashion", "test")
    wanted = torch.arange(CLASSES).repeat(ROWS)
    if args.real:
        train = load_images("fashion", "train")
        first = [(train.labels == c).nonzero()[:ROWS, 0] for c in range(CLASSES)]
        images = to_float(train.images[torch.stack(first, 1).flatten()])
    else:
        tok, var = MultiScaleVQVAE.from_pretrained(args.tokenizer), VAR.from_pretrained(args.var)
        images = torch.cat(
            [
                sample(var, tok, part, cfg=GUIDANCE, seed=args.sample_seed + i)
                for i, part in enumerate(wanted.split(100))
            ]
        )
    if args.picture:
        from varmini import plots

        plots.save(plots.image_grid(images[:80], columns=CLASSES), args.picture)
    features, probs = evaluator.all_of(images.split(500))
    own = (probs.argmax(1) == wanted).float().mean().item()
    distance = frechet_distance(features, evaluator.all_of(test.images.split(500))[0])
    return {"own_class": round(own, 4), "frechet": round(distance, 3), "evaluator": evaluator.about}


def main() -> None:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--evaluator", default="fashion")
    parser.add_argument("--tokenizer", default="fashion")
    parser.add_argument("--var", default="fashion")
    parser.add_argument("--real", action="store_true", help="500 training images: the floor")
    parser.add_argument("--sample-seed", type=int, default=0)
    parser.add_argument("--seed", default="", help="of the trainings")
    parser.add_argument("--kind", default="", help="on what they ran: poor is AVX2 in float32")
    parser.add_argument("--preset", default="fashion", help="what to call it in the table")
    parser.add_argument("--tokenizer-seconds", default="", help="training on the reference, quiet")
    parser.add_argument("--var-seconds", default="", help="the same, of the transformer")
    parser.add_argument("--picture", type=Path, help="a PNG of the first 80 samples")
    parser.add_argument("--table", type=Path, default=RESULTS / "live_bed.csv")
    args = parser.parse_args()
    found = provenance()
    row = {
        "command": found["command"],
        "commit": found["commit"],
        "hardware": found["hardware"],
        "date": found["date"],
        "kind": args.kind,
        "seed": args.seed,
        "preset": "real training images" if args.real else args.preset,
        "images": CLASSES * ROWS,
        "tokenizer_seconds_equiv": args.tokenizer_seconds,
        "var_seconds_equiv": args.var_seconds,
        **score(args),
    }
    print(row)
    write_rows(args.table, [*(read_rows(args.table) if args.table.is_file() else []), row])


if __name__ == "__main__":
    main()
