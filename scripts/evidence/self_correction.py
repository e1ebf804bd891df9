"""The repair experiment of Infinity with and without self-correction: one CSV file, and a verdict.

    varmini compare --sweep --methods infinity infinity-sc --out runs/comparison
    python scripts/evidence/self_correction.py --out runs/comparison

Every finished run of both methods, every map but the last, every share of flipped bits; what the
columns mean is in varmini/experiments/zero_shot/self_correction.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.measure import finished_model, some_images
from varmini.experiments.zero_shot.self_correction import measure, verdicts
from varmini.runtime.distributed import progress
from varmini.runtime.machine import device
from varmini.runtime.tables import RESULTS, origin, write_rows

METHODS = ("infinity", "infinity-sc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--csv", type=Path, default=RESULTS / "comparison" / "self_correction.csv")
    parser.add_argument("--images", type=int, default=500, help="test images, evenly spread")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--guidance", type=float, default=2.0)
    args = parser.parse_args()
    codes = Codes(Bed(), args.out)
    tok = codes.tokenizer("multiscale-bsq")
    images, labels = (x.to(device()) for x in some_images(codes, args.images))
    jobs = [(name, seed, scale, share) for name in METHODS for seed in range(5)
            if (args.out / f"{name}-s{seed}" / "model.safetensors").exists()
            for scale in range(1, len(tok.config.sizes)) for share in args.shares]  # fmt: skip
    rows = []
    for name, seed, scale, share in progress(jobs, "repair"):
        found = measure(finished_model(codes, name, seed), tok, images, labels, codes.evaluator,
                        scale, share, seed=seed, guidance=args.guidance)  # fmt: skip
        rows.append({"method": name, "seed": seed} | found | origin())
    print(f"wrote {write_rows(args.csv, rows)}")
    for row in verdicts(rows):
        words = (f"{name} {row[f'gain_{name}']:+.1f} % (p = {row[f'p_{name}']:.2g})"
                 for name in METHODS)  # fmt: skip
        print(f"map {row['scale']}, {row['share']:.0%} flipped, against {row['control']}: gain",
              f"{', '.join(words)}; difference {row['more']:+.1f} (p = {row['p_more']:.2g})")


if __name__ == "__main__":
    main()
