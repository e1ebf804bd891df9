"""Three changes to the training of CIFAR-10's tokenizer, in short runs, three seeds each.

    python scripts/evidence/tokenizer_tricks.py --out runs/tokenizer-tricks   # goes on if stopped

All are other ways from the quantizer to the decoder, in training alone; the preset's codebook loss,
revival of unused codes and all else stay, but weights are averaged over 50 steps instead of 500,
since runs are short. A run is one row, of the averaged weights on test images: reconstructions as
they are, from the first three of five scales, and with a tenth of all codes replaced by near ones,
as a transformer's draws would be wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tricks import near_codes

from varmini import MultiScaleVQVAE, quicken
from varmini.data import ImageSet, in_order, load_images
from varmini.evaluation import metrics
from varmini.evaluation.evaluators import Evaluator, load_evaluator
from varmini.model.quantizer import MultiScaleQuantizer, Quantized
from varmini.runtime.tables import RESULTS, Row, append_row, origin, rows_of
from varmini.training.presets import preset
from varmini.training.train_tokenizer import train

SHARE, FIRST, NEAR = 0.1, 3, 25
"""Images that a change meets; scales always kept; nearest codes, of 1,024."""


# What the decoder reads: (quantizer, f, its training pass) -> (B, C, H, W).


@torch.no_grad()
def without_later(quantizer: MultiScaleQuantizer, f: Tensor, found: Quantized) -> Tensor:
    """f_hat of the first 3 to K - 1 scales, in a tenth of the images."""
    f_hats = torch.stack(quantizer.cumulative(found.tokens))  # (K, B, C, H, W)
    count = torch.randint(FIRST, len(f_hats), (len(f),))
    count[torch.rand(len(f)) >= SHARE] = len(f_hats)
    return f_hats[count - 1, torch.arange(len(f))]


@torch.no_grad()
def perturbed(quantizer: MultiScaleQuantizer, f: Tensor, found: Quantized) -> Tensor:
    """f_hat of codes of which half are replaced by near ones, in a tenth of the images."""
    some = torch.rand(len(f)) < SHARE
    wrong = [near_codes(quantizer, tokens, 0.5, NEAR) for tokens in found.tokens]
    right = quantizer.decode(found.tokens)
    return torch.where(some[:, None, None, None], quantizer.decode(wrong), right)


def straight(change: Callable) -> Callable:
    """Gradients of what the decoder reads pass straight through to f."""
    return lambda quantizer, f, found: f + (change(quantizer, f, found) - f).detach()


def rotated(quantizer: MultiScaleQuantizer, f: Tensor, found: Quantized) -> Tensor:
    """f_hat = s R f: R turns f to f_hat, s scales it; both count as constants in the gradient."""
    with torch.no_grad():
        target = quantizer.decode(found.tokens)
        e, q = F.normalize(f, dim=1), F.normalize(target, dim=1)
        r, scale = F.normalize(e + q, dim=1), target.norm(dim=1) / f.norm(dim=1).clamp(min=1e-6)
    # R f = f - 2 r <r, f> + 2 q <e, f>
    inner = [(x * f).sum(1, keepdim=True) for x in (r, e)]
    return scale[:, None] * (f - 2 * r * inner[0] + 2 * q * inner[1])


class Variant(NamedTuple):
    change: str
    source: str
    read: Callable | None


VARIANTS = {
    "base": Variant("", "the preset `cifar10`", None),
    "later scales dropped": Variant(
        "a tenth of the images are decoded from the first 3 or 4 of 5 scales",
        "XQ-GAN, arXiv:2412.01762", straight(without_later),
    ),
    "codes perturbed": Variant(
        f"in a tenth of the images half of the codes become one of their {NEAR} nearest",
        "RobustTok, arXiv:2503.08354", straight(perturbed),
    ),
    "rotation trick": Variant(
        "the gradient passes the lookup turned and scaled as the vector is",
        "arXiv:2410.06424", rotated,
    ),
}  # fmt: skip


@contextlib.contextmanager
def reading(read: Callable | None) -> Iterator[None]:
    """Inside, training passes give the decoder what `read` says; None: the quantizer's own."""
    plain = MultiScaleQuantizer.forward

    def forward(self: MultiScaleQuantizer, f: Tensor) -> Quantized:
        found = plain(self, f)
        return replace(found, f_hat=read(self, f.float(), found))

    MultiScaleQuantizer.forward = forward if read else plain
    try:
        yield
    finally:
        MultiScaleQuantizer.forward = plain


@torch.no_grad()
def measure(tok: MultiScaleVQVAE, images: ImageSet, evaluator: Evaluator) -> Row:
    """PSNR in dB, share that keep their class, Frechet distance, in three kinds of drawing."""
    torch.manual_seed(0)
    tok, real, maps, drawn = quicken(tok.eval()), [], [], {}
    for x, _ in in_order(images, 100):
        maps.append(tokens := tok.encode(x))
        wrong = [near_codes(tok.quantizer, t, 0.1, NEAR) for t in tokens]
        real.append(x)
        for name, pictures in (("", tok.decode(tokens)), ("_3", tok.decode(tokens, 3)),
                               ("_wrong", tok.decode(wrong))):  # fmt: skip
            drawn.setdefault(name, []).append(pictures.float().clamp(-1, 1))
    used = metrics.codebook_usage(maps, tok.vocab_size)["scales"]
    row: Row = {"held_out": len(images), "least_used": min(s["share"] for s in used)}
    features = evaluator.all_of(real)[0]
    for name, parts in drawn.items():
        seen, probs = evaluator.all_of(parts)
        row[f"psnr{name}"] = metrics.psnr(torch.cat(parts), torch.cat(real)).mean().item()
        row[f"kept{name}"] = (probs.argmax(1) == images.labels).double().mean().item()
        row[f"frechet{name}"] = metrics.frechet_distance(features, seen)
    return row


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizer-tricks"))
    parser.add_argument("--csv", type=Path, default=RESULTS / "tokenizer_tricks.csv")
    parser.add_argument("--images", type=int, default=12_800, help="of a run, counting repeats")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--held-out", type=int, default=2000, help="test images")
    options = parser.parse_args(args)
    test = load_images("cifar10", "test", limit=options.held_out)
    evaluator = load_evaluator(None, 3, 32)[0]
    for seed, name in itertools.product(options.seeds, options.only):
        if (name, seed) in ((r["variant"], r["seed"]) for r in rows_of(options.csv)):
            continue
        out = options.out / f"{name.replace(' ', '-')}-s{seed}"
        config = replace(preset("cifar10").tokenizer, images=options.images, seed=seed,
                         log_every=options.images // 32 // 4, ema=0.98)  # fmt: skip
        with reading(VARIANTS[name].read):
            train(config, out, resume=out.exists())
        row = {"variant": name, "seed": seed, "images": options.images}
        row |= measure(MultiScaleVQVAE.from_pretrained(out), test, evaluator)
        append_row(options.csv, row | origin())
        print(f"{name}, seed {seed}: {row['psnr']:.2f} dB, {row['kept']:.3f}", flush=True)


if __name__ == "__main__":
    main()
