"""The README's pictures docs/system.png, and, moving, algorithm_1.png, growing.png and cache.png.

    python scripts/evidence/animations.py [--out docs]

Made with the shipped CIFAR-10 models; the notebooks 00, 03 and 07 show the same. An animated PNG
must stay under 500 kB. Prints the alternative text of each, for whoever embeds it.
"""

import argparse
from pathlib import Path

import torch

from varmini import VAR, MultiScaleVQVAE, ScaleSchedule, sample
from varmini.data import load_images, to_float
from varmini.plots import animation, save
from varmini.plots.system import whole_system

LARGEST = 500_000  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "docs")
    out = parser.parse_args().out
    tok, var = MultiScaleVQVAE.from_pretrained("cifar10"), VAR.from_pretrained("cifar10")
    data = load_images("cifar10-subset", "test")
    labels = torch.arange(10).repeat(2)
    _, tokens = sample(var, tok, labels, cfg=3, top_k=200, seed=0, return_tokens=True)
    made = {
        "algorithm_1": animation.algorithm_1(tok, to_float(data.images[55:56])),
        "growing": animation.growing_grid(tok, tokens, columns=10, names=data.classes),
        "cache": animation.cache_filling(ScaleSchedule((1, 2, 3, 4))),
    }
    save(whole_system(tok, var), out / "system.png")
    for name, moving in made.items():
        assert len(moving.png) < LARGEST, (name, len(moving.png))
        moving.save(out / f"{name}.png")
        print(f"{out / name}.png: {len(moving.png) / 1000:.0f} kB, alt: {moving.alt}")


if __name__ == "__main__":
    main()
