"""Zero-shot tasks, measured: in- and out-painting, class edits, super-resolution.

All of them force some of an image's own tokens and let the model draw the others (VAR, section
5.2). Errors are mean squares of images in [-1, 1]; a mean comes with its standard error over
images. Everywhere images are (B, C, H, W) in [-1, 1], held out, and labels (B,) their classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ... import inpaint, sample
from ...fast.drawing import quick_generate
from ...model.sampler import Noise
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...runtime.tables import Row

TASKS = ("in-painting", "line", "out-painting", "editing")
DRAWN = {"cfg": 1.5, "top_k": 0, "top_p": 0.96, "seed": 0}
"""How maps are drawn after forced ones, unless said otherwise."""


def task_mask(task: str, size: tuple[int, int]) -> Tensor:
    """(H, W) bool, True where one of `TASKS` draws.

    The middle half of each side, or all around it; "line": a line, one pixel wide.
    """
    h, w = size
    middle = torch.zeros(h, w, dtype=torch.bool)
    if task == "line":
        middle[:, 3 * w // 8] = True  # by the paper's rule it draws nothing on CIFAR-10's maps
        return middle
    middle[h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    return ~middle if task == "out-painting" else middle


def kept_error(images: Tensor, originals: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error where nothing was to be drawn: (B, C, H, W) twice, mask (H, W) -> (B,)."""
    return (images - originals).square().mean(1)[:, ~mask].mean(1)


def seam_error(images: Tensor, mask: Tensor) -> Tensor:
    """How far neighbouring pixels differ across the mask's edge, in units of the pixels: (B,).

    The mean absolute difference of all pairs of pixels, side by side or one above the other, of
    which one was drawn and one kept.

    images: (B, C, H, W). mask: (H, W) bool, with an edge.
    """
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    steps = [
        (images[..., 1:] - images[..., :-1]).abs().mean(1)[:, across],
        (images[..., 1:, :] - images[..., :-1, :]).abs().mean(1)[:, down],
    ]
    return torch.cat(steps, dim=1).mean(1)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error an image, (B, ...) twice -> (B,)."""
    return (a - b).square().flatten(1).mean(1)


def right(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """1.0 where the classifier gives the image its label, else 0.0: (B,)."""
    return (classifier(images).argmax(1) == labels).float()


def mean_and_error(values: Tensor, name: str) -> dict[str, float]:
    """{name: mean, name_se: standard error of the mean} of one value an image, (n,)."""
    values = values.double()
    spread = values.std().item() if len(values) > 1 else float("nan")
    return {name: values.mean().item(), f"{name}_se": spread / math.sqrt(max(1, len(values)))}


@torch.no_grad()
def painting(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    task: str,
    *,
    batch_size: int = 50,
    **options: Any,
) -> tuple[Row, Tensor]:
    """In-painting (of a box or a line), out-painting or class editing of images.

    In- and out-painting use the null class; editing draws the middle as another class than the
    image's own (the next but two). "Pasted" is the control: a picture drawn without a look at the
    image (of the null or the target class), set into the tokenizer's reconstruction.

    options: cfg, top_k, top_p, smooth, seed and rule as in `varmini.inpaint`; the paper's
    demonstration has 3, 900 of 4,096 codes, 0.95, True and "paper".

    Returns the measures (kept: error in the kept area; seam: see `seam_error`; accuracy_target and
    accuracy_own: share that the classifier gives the class drawn, and the image's own), each for
    painted, reconstructed and pasted images; how far the pixels of
    the mask are from the reconstruction's (moved); and the painted images.
    """
    mask, null = task_mask(task, tok.image_size).to(images.device), var.config.num_classes
    target = (labels + 3) % null if task == "editing" else None
    options = {"cfg": 3.0, "top_k": 0, "top_p": 0.95, "smooth": True, "seed": 0} | options
    options = {"rule": "painted"} | options
    row: Row = {"task": task, "n": len(images), **options}
    row |= mean_and_error(seam_error(images, mask), "seam_original")
    options["batch_size"] = batch_size
    painted = inpaint(var, tok, images, mask, target, **options)
    del options["rule"]
    own = torch.cat([tok.decode(tok.encode(part)) for part in images.split(batch_size)])
    drawn_as = torch.full_like(labels, null) if target is None else target
    pasted = torch.where(mask, sample(var, tok, drawn_as, **options), own)
    row |= mean_and_error(squared_error(painted[..., mask], own[..., mask]), "moved")
    for name, result in (("painted", painted), ("tokenizer", own), ("pasted", pasted)):
        row |= mean_and_error(kept_error(result, images, mask), f"kept_{name}")
        row |= mean_and_error(seam_error(result, mask), f"seam_{name}")
        row |= mean_and_error(right(classifier, result, labels), f"accuracy_own_{name}")
        if target is not None:
            row |= mean_and_error(right(classifier, result, target), f"accuracy_target_{name}")
    return row, painted


@torch.no_grad()
def ranked(classifier: nn.Module, painted: Tensor, labels: Tensor, task: str) -> Tensor:
    """Numbers of the painted images, the best first: (B,).

    Edits by the probability of the class asked for, the others by the smallest seam.
    """
    if task == "editing":
        probs = classifier(painted).softmax(1)
        score = probs.gather(1, ((labels + 3) % probs.shape[1])[:, None])[:, 0]
        return score.argsort(descending=True)
    mask = task_mask(task, tuple(painted.shape[2:])).to(painted.device)
    return seam_error(painted, mask).argsort()


@torch.no_grad()
def draw_with(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Tensor,
    forced: list[Tensor],
    *,
    seed: int,
    batch_size: int | None = None,
    **options: Any,
) -> list[Tensor]:
    """Token pyramid whose first maps are `forced`; the model draws the others after them.

    The random numbers of a map do not depend on what was forced before it, so two calls with one
    seed differ only by what the model makes of the difference.

    Args:
        labels: (B,).
        forced: the first maps, LongTensors (B, h_k, w_k); none or all of them, too.
        batch_size: images drawn together, all by default; each part has its own seed.
        options: cfg, top_k and top_p, as in `varmini.sample`.
    """
    parts, size = [], batch_size or len(labels)
    for first in range(0, len(labels), size):
        rows = slice(first, first + size)
        known = [t[rows] for t in forced]

        def force(k: int, codes: Tensor, f_hat: Tensor, known: list[Tensor] = known) -> Tensor:
            return tok.quantizer.embed(known[k]) if k < len(known) else codes

        noise = Noise(seed + first, 0, len(labels[rows]), labels.device)
        drawn = quick_generate(var, tok, labels[rows], noise, replace=force, **options)
        parts.append(known + [tokens for tokens, _ in drawn][len(known) :])
    return [torch.cat(maps) for maps in zip(*parts)]


@torch.no_grad()
def super_resolution(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    known: int,
    *,
    batch_size: int = 50,
    **options: Any,
) -> tuple[Row, Tensor]:
    """Forces the first `known` maps of an image and draws the others. options: unlike `DRAWN`.

    Returns error and class accuracy of the drawn images, of the decoder on the known maps alone,
    and of the tokenizer with all maps; and the drawn images.
    """
    tokens, options = tok.encode(images), DRAWN | options
    maps = draw_with(var, tok, labels, tokens[:known], batch_size=batch_size, **options)
    row: Row = {"known": known, "n": len(images), **options}
    arms = {"drawn": tok.decode(maps), "tokenizer": tok.decode(tokens)}
    if known:
        arms["coarse"] = tok.decode(tokens, num_scales=known)
    for name, result in arms.items():
        row |= mean_and_error(squared_error(result, images), f"mse_{name}")
        row |= mean_and_error(right(classifier, result, labels), f"accuracy_{name}")
    return row, arms["drawn"]


def corrupt(tokens: Tensor, share: float, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Puts a wrong code, uniformly drawn, in ceil(share n) positions of each map (B, h, w).

    ValueError when the share is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a share of the tokens in (0, 1]")
    flat = tokens.flatten(1)
    count = math.ceil(share * flat.shape[1])
    order = torch.rand(flat.shape, generator=generator).argsort(1)[:, :count]
    shift = torch.randint(1, vocab_size, order.shape, generator=generator)
    wrong = (flat.gather(1, order) + shift) % vocab_size
    return flat.scatter(1, order, wrong).view_as(tokens)
