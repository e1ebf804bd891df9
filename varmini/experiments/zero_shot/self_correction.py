"""Does self-correction mend mistakes? The repair experiment with fair controls, for Infinity.

A share of the bits of map k is flipped; maps before it are the image's own in all arms, and the
random numbers are the same. What differs is where the later maps come from:
  seen      the model draws them from the corrupted start
  unseen    the model draws them without sight of the corruption: the flipped bits it has drawn
            itself from the coarser maps, the others are the image's own
  redrawn   the same, of a map k that the model has drawn as a whole
  stored    they are the image's own
  oracle    the tokenizer codes what the corrupted start lacks of the image's features
  informed  they are those of "clean": the control of `repair.py`
All go onto the corrupted start. For comparison, without corruption:
  clean     map k is the image's own; the model draws the later ones
  own       all are the image's own

"Informed" is unfair: its maps were drawn by a model that had seen the true map k. They carry
details of this picture that nobody knows from a corrupted start, so "seen" may lose to it although
it mends. "Unseen" knows of the picture what "seen" is shown: the maps before and the bits that were
not flipped (and that these are right, which "seen" is not told; "redrawn" knows less than both).
Bits of a map are independent given the coarser maps, so drawing only some of them is exact, with
the head of bits.

Gain = error of a control - error of "seen", image by image: above 0 is mending.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from ...evaluation.evaluators import Evaluator
from ...evaluation.statistics import ENOUGH, holm, interval, t_tail, welch
from ...runtime.tables import Row
from ...zoo.generators.infinity import Infinity
from ...zoo.tokenizers.lfq import to_tokens
from ...zoo.tokenizers.multiscale_bsq import MultiScaleBSQ
from .painting import mean_and_error, squared_error
from .repair import paired, repaired

CONTROLS = ("unseen", "redrawn", "informed")
"""Arms that "seen" is compared with."""
SPACES = ("features", "pixels", "wrong")
"""Errors: against the encoder's features, against the image, and 1 where the class is not kept."""


def flip_bits(maps: Tensor, share: float, bits: int, generator: torch.Generator) -> Tensor:
    """Which bits to flip of maps (B, h, w), as tokens: ceil(share n) of each map's n, drawn anew.

    ValueError when the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a share of the bits in (0, 1]")
    order = torch.rand(len(maps), maps[0].numel() * bits, generator=generator).argsort(1)
    chosen = order < math.ceil(share * order.shape[1])  # a random order's first places
    return to_tokens(chosen.view(*maps.shape, bits)).to(maps.device)


def arms(
    model: Infinity, features: Tensor, labels: Tensor, flips: Tensor, scale: int, **options: Any
) -> dict[str, list[Tensor]]:
    """Token pyramids of all arms (see the module).

    Args:
        features: (B, d, H, W) of the images, before quantization; labels (B,).
        flips: (B, h_k, w_k), which bits of map k = `scale` are flipped, from 1 to K - 1.
        options: of `Infinity.generate`; the seed among them.
    """

    def draw(*forced: Tensor) -> list[Tensor]:
        return model.generate(labels, forced=forced, **options)

    k, schedule = scale - 1, model.schedule
    every = flips.new_zeros(len(flips), schedule.num_tokens)
    every[:, schedule.slices[k]] = flips.flatten(1)
    own, again = (
        schedule.unflatten(model.teacher(features, flipped)[0]) for flipped in (None, every)
    )
    before, start = own[:k], [*own[:k], own[k] ^ flips]
    redrawn, clean, seen = draw(*before), draw(*own[:scale]), draw(*start)
    unseen = draw(*before, redrawn[k] & flips | own[k] & ~flips)
    later = {"unseen": unseen, "redrawn": redrawn, "informed": clean, "stored": own,
             "oracle": again}  # fmt: skip
    on_start = {name: [*start, *maps[scale:]] for name, maps in later.items()}
    return {"seen": seen, "clean": clean, "own": own} | on_start


@torch.no_grad()
def measure(
    model: Infinity, tok: MultiScaleBSQ, images: Tensor, labels: Tensor, evaluator: Evaluator,
    scale: int, share: float, *, seed: int = 0, batch_size: int = 100, **options: Any,
) -> Row:  # fmt: skip
    """Flips a share of the bits of one map of each image; errors of all arms, and gains.

    Every gain has its 95 % interval, paired over images; "repair" is 1 - damage(seen) /
    damage(unseen), and for the oracle 1 - damage(oracle) / damage(stored), as in `repair.py`.

    Args:
        images, labels: (B, C, H, W) in [-1, 1], held out, and (B,) their classes.
        options: of `Infinity.generate`.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for i, (part, y) in enumerate(zip(images.split(batch_size), labels.split(batch_size))):
        features = tok.features(part)
        map_ = torch.zeros(len(part), *model.schedule.grids[scale - 1], dtype=torch.long)
        flips = flip_bits(map_, share, model.config.bits, generator).to(features.device)
        drawn = arms(model, features, y, flips, scale, seed=seed * 10_007 + i, **options)
        errors = {}
        for name, maps in drawn.items():
            shown = tok.decode(maps)
            kept = evaluator(shown)[1].argmax(1) == y.cpu()
            errors[name] = (squared_error(tok.quantizer.embed(maps), features).cpu(),
                            squared_error(shown, part).cpu(), 1 - kept.float())  # fmt: skip
        found.append(errors)
    row: Row = {"scale": scale, "share": share, "n": len(images), "sample_seed": seed} | options
    for j, space in enumerate(SPACES):
        of = {name: torch.cat([errors[name][j] for errors in found]) for name in found[0]}
        for name, values in of.items():
            row |= mean_and_error(values, f"{space}_{name}")
        for control in CONTROLS:
            row |= paired(of[control] - of["seen"], f"gain_{space}_{control}")
        if space != "wrong":
            row |= repaired(of["clean"], of["unseen"], of["seen"], f"seen_{space}")
            row |= repaired(of["own"], of["stored"], of["oracle"], f"oracle_{space}")
    return row


def relative_gain(row: Row, control: str, space: str = "features") -> float:
    """Gain against a control, in per cent of the control's error in "features" or "pixels"."""
    return 100 * row[f"gain_{space}_{control}"] / row[f"{space}_{control}"]


def verdicts(rows: Sequence[Row], space: str = "features") -> list[Row]:
    """Do the models mend, and does self-correction help? One row a map, share and fair control.

    space: whose errors are compared, "features" or "pixels".

    Columns: of both methods `gain_M`, the mean of `relative_gain` over seeds, with its 95 %
    interval and `p_M` against 0 (Student's t); "more", what self-correction adds, with Welch's
    interval and p. All p-values are adjusted together (Holm), and 1 below five seeds a side.
    """
    found, tests = [], []
    for scale, share in sorted({(row["scale"], row["share"]) for row in rows}):
        for control in ("unseen", "redrawn"):
            of = {name: [relative_gain(r, control, space) for r in rows if (
                r["method"], r["scale"], r["share"]) == (name, scale, share)]
                for name in ("infinity", "infinity-sc")}  # fmt: skip
            if not all(of.values()):
                continue
            row: Row = {"scale": scale, "share": share, "control": control}
            for name, values in of.items():
                low, high = interval(values)
                row |= {f"gain_{name}": fmean(values), f"low_{name}": low, f"high_{name}": high,
                        f"seeds_{name}": len(values)}  # fmt: skip
                tests.append((row, f"p_{name}", p_of_mean(values)))
            more = welch(of["infinity-sc"], of["infinity"])
            row |= {"more": more.value, "more_low": more.low, "more_high": more.high}
            tests.append((row, "p_more", more.p if more.enough else 1.0))
            found.append(row)
    for (row, name, _), p in zip(tests, holm([p for *_, p in tests])):
        row[name] = p
    return found


def p_of_mean(values: Sequence[float]) -> float:
    """Two-sided p of a mean against 0 by Student's t; 1 below `ENOUGH` values."""
    if len(values) < ENOUGH:
        return 1.0
    error = stdev(values) / math.sqrt(len(values))
    return t_tail(fmean(values) / error, len(values) - 1) if error else float(fmean(values) == 0)
