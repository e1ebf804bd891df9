"""Pictures of the family, from the runs of `varmini compare --sweep`.

    python scripts/evidence/family_pictures.py tokenizers --runs runs/comparison

writes results/comparison/tokenizers.png: twelve test garments, drawn again by every tokenizer whose
run is finished. Nothing is trained or measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.measure import some_images
from varmini.experiments.comparison.tokenizers import FAMILY
from varmini.plots import image_grid, save
from varmini.runtime.machine import autocast, device
from varmini.runtime.tables import RESULTS

GARMENTS = 12
"""Pictures a row."""
NAMES = {
    "var": "VAR", "vqvae": "VQ-VAE", "vqgan": "VQGAN", "vit-vqgan": "ViT-VQGAN", "rq-vae": "RQ-VAE",
    "lfq": "LFQ", "open-magvit2": "Open-MAGVIT2", "bsq": "BSQ", "fsq": "FSQ", "ibq": "IBQ",
    "titok": "TiTok", "multiscale-bsq": "multi-scale BSQ", "kl": "KL autoencoder",
}  # fmt: skip
"""As they are called in papers."""


@torch.no_grad()
def tokenizers(codes: Codes, seed: int = 0) -> Figure:
    """Test images, and below them what each finished tokenizer of the family makes of them.

    Raises:
        ValueError: when no run is finished.
    """
    images, _ = some_images(codes, GARMENTS)
    parts, names = [images], ["real"]
    for name in FAMILY:
        if (codes.folder(name, seed) / "model.safetensors").exists():
            tok = codes.tokenizer(name, seed)
            with autocast():
                parts.append(tok.decode(tok.encode(images.to(device()))).float().clamp(-1, 1).cpu())
            names.append(NAMES[name])
    if len(parts) == 1:
        raise ValueError(f"{codes.out} holds no finished tokenizer of seed {seed}: "
                         "run `varmini compare --sweep` first")  # fmt: skip
    return image_grid(torch.cat(parts), columns=GARMENTS, rows=names)


PICTURES: dict[str, Callable[[Codes], Figure]] = {"tokenizers": tokenizers}
"""By the name of the file."""


def main(arguments: list[str] | None = None) -> None:
    """Writes the pictures that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pictures", nargs="+", choices=PICTURES)
    parser.add_argument("--runs", type=Path, default=Path("runs/comparison"), help="the sweep's")
    parser.add_argument("--out", type=Path, default=RESULTS / "comparison")
    given = parser.parse_args(arguments)
    bed = given.runs / "bed.json"
    if not bed.exists():
        sys.exit(f"{bed} is not there: give the folder of `varmini compare --sweep` as --runs")
    codes = Codes(Bed(**json.loads(bed.read_text())), given.runs)
    for name in given.pictures:
        width, height = save(PICTURES[name](codes), given.out / f"{name}.png")
        print(f"{given.out / f'{name}.png'}: {width} x {height} pixels")


if __name__ == "__main__":
    main()
