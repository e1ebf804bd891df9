"""Zero-shot tasks, measured: in- and out-painting, class edits, super-resolution, error repair.

All of them force some of an image's own tokens and let the model draw the others (VAR, section
5.2). Errors are mean squares of images in [-1, 1]; a mean comes with its standard error over
images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .sampler import generate, inpaint, sample
from .tokenizer import MultiScaleVQVAE
from .transformer import VAR

TASKS = ("in-painting", "out-painting", "editing")


def task_mask(task: str, size: tuple[int, int]) -> Tensor:
    """(H, W) bool, True where a task draws: the middle half of each side, or all around it.

    Raises:
        ValueError: on an unknown task.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, expected one of: {', '.join(TASKS)}")
    h, w = size
    middle = torch.zeros(h, w, dtype=torch.bool)
    middle[h // 4 : h - h // 4, w // 4 : w - w // 4] = True
    return ~middle if task == "out-painting" else middle


def kept_error(images: Tensor, originals: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error where nothing was to be drawn: (B, C, H, W) twice, mask (H, W) -> (B,)."""
    if mask.all():
        raise ValueError("the mask draws everything, so nothing is kept to measure")
    return (images - originals).square().mean(1)[:, ~mask].mean(1)


def seam_error(images: Tensor, mask: Tensor) -> Tensor:
    """How far neighbouring pixels differ across the mask's edge.

    The mean absolute difference of all pairs of pixels, side by side or one above the other, of
    which one was drawn and one kept.

    Args:
        images: (B, C, H, W).
        mask: (H, W) bool.

    Returns:
        (B,), in units of the pixels.

    Raises:
        ValueError: when the mask has no edge.
    """
    across = mask[:, 1:] != mask[:, :-1]
    down = mask[1:] != mask[:-1]
    if not (across.any() or down.any()):
        raise ValueError("the mask has no edge: it draws everything or nothing")
    steps = [
        (images[..., 1:] - images[..., :-1]).abs().mean(1)[:, across],
        (images[..., 1:, :] - images[..., :-1, :]).abs().mean(1)[:, down],
    ]
    return torch.cat(steps, dim=1).mean(1)


def mean_and_error(values: Tensor, name: str) -> dict[str, float]:
    """{name: mean, name_se: standard error of the mean} of one value an image, (n,)."""
    values = values.double()
    spread = values.std().item() if len(values) > 1 else float("nan")
    return {name: values.mean().item(), f"{name}_se": spread / math.sqrt(max(1, len(values)))}


def _right(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return (classifier(images).argmax(1) == labels).float()


@torch.no_grad()
def painting(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    task: str,
    *,
    cfg: float = 3.0,
    top_k: int = 0,
    top_p: float = 0.95,
    smooth: bool = True,
    seed: int = 0,
    batch_size: int = 50,
) -> tuple[dict[str, Any], Tensor]:
    """In-painting, out-painting or class editing of images by the paper's protocol.

    In- and out-painting use the null class; editing draws the middle as another class than the
    image's own (the next but two). "Pasted" is the control: a picture drawn without a look at the
    image (of the null or the target class), set into the tokenizer's reconstruction.

    Args:
        images: (B, C, H, W) in [-1, 1], held out.
        labels: (B,) their classes.
        task: one of `TASKS`.
        cfg, top_k, top_p, smooth, seed: as in `varmini.inpaint`; the paper's demonstration has 3,
            900 of 4,096 codes, 0.95 and True.

    Returns:
        The measures (kept: error in the kept area; seam: see `seam_error`; accuracy_target and
        accuracy_own: share that the classifier gives the class drawn, and the image's own), each
        for painted, reconstructed and pasted images; and the painted images.

    Raises:
        ValueError: on an unknown task, and as `varmini.inpaint` does.
    """
    classes = var.config.num_classes
    mask = task_mask(task, tok.image_size).to(images.device)
    target = (labels + 3) % classes if task == "editing" else None
    options = {"cfg": cfg, "top_k": top_k, "top_p": top_p, "smooth": smooth, "seed": seed,
               "batch_size": batch_size}  # fmt: skip
    painted = inpaint(var, tok, images, mask, target, **options)
    own = torch.cat([tok.decode(tok.encode(part)) for part in images.split(batch_size)])
    drawn_as = torch.full_like(labels, classes) if target is None else target
    blind = sample(var, tok, drawn_as, **options)
    pasted = torch.where(mask, blind, own)
    row: dict[str, Any] = {"task": task, "n": len(images), "cfg": cfg, "top_k": top_k,
                           "top_p": top_p, "smooth": smooth, "seed": seed}  # fmt: skip
    row |= mean_and_error(seam_error(images, mask), "seam_original")
    for name, result in (("painted", painted), ("tokenizer", own), ("pasted", pasted)):
        row |= mean_and_error(kept_error(result, images, mask), f"kept_{name}")
        row |= mean_and_error(seam_error(result, mask), f"seam_{name}")
        row |= mean_and_error(_right(classifier, result, labels), f"accuracy_own_{name}")
        if target is not None:
            row |= mean_and_error(_right(classifier, result, target), f"accuracy_target_{name}")
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
    cfg: float,
    top_k: int,
    top_p: float,
    seed: int,
) -> list[Tensor]:
    """Token pyramid whose first maps are `forced`; the model draws the others after them.

    The random numbers of a map do not depend on what was forced before it, so two calls with one
    seed differ only by what the model makes of the difference.

    Args:
        labels: (B,).
        forced: the first maps, LongTensors (B, h_k, w_k); none or all of them, too.

    Raises:
        ValueError: on maps that do not fit.
    """
    from .sampler import _Noise

    tok.schedule.check(forced, tok.vocab_size, len(forced))

    def force(k: int, codes: Tensor, f_hat: Tensor) -> Tensor:
        return tok.quantizer.embed(forced[k]) if k < len(forced) else codes

    noise = _Noise(seed, 0, len(labels), labels.device)
    loop = generate(var, tok, labels, cfg, top_k, top_p, noise, replace=force)
    drawn = [tokens for _, _, tokens, _ in loop]
    return [*forced, *drawn[len(forced) :]]


def _in_parts(
    call: Callable[[Tensor, list[Tensor], int], list[Tensor]],
    labels: Tensor,
    forced: list[Tensor],
    batch_size: int,
) -> list[Tensor]:
    """`call(labels, forced, first)` on parts of a batch, put together again."""
    parts = []
    for first in range(0, len(labels), batch_size):
        rows = slice(first, first + batch_size)
        parts.append(call(labels[rows], [t[rows] for t in forced], first))
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
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.96,
    seed: int = 0,
    batch_size: int = 50,
) -> tuple[dict[str, Any], Tensor]:
    """Forces the first `known` maps of an image and draws the others.

    Returns:
        Error and class accuracy of the drawn images, of the decoder on the known maps alone, and
        of the tokenizer with all maps; and the drawn images.

    Raises:
        ValueError: when `known` is not in [0, K], and on what `draw_with` refuses.
    """
    scales = len(tok.schedule)
    if not 0 <= known <= scales:
        raise ValueError(f"known is {known}, expected 0 to {scales} maps")
    tokens = tok.encode(images)

    def call(part: Tensor, forced: list[Tensor], first: int) -> list[Tensor]:
        return draw_with(
            var, tok, part, forced, cfg=cfg, top_k=top_k, top_p=top_p, seed=seed + first
        )

    drawn = tok.decode(_in_parts(call, labels, tokens[:known], batch_size))
    row: dict[str, Any] = {"known": known, "n": len(images), "cfg": cfg, "top_k": top_k,
                           "top_p": top_p, "seed": seed}  # fmt: skip
    arms = {"drawn": drawn, "tokenizer": tok.decode(tokens)}
    if known:
        arms["coarse"] = tok.decode(tokens, num_scales=known)
    for name, result in arms.items():
        row |= mean_and_error((result - images).square().flatten(1).mean(1), f"mse_{name}")
        row |= mean_and_error(_right(classifier, result, labels), f"accuracy_{name}")
    return row, drawn


def corrupt(tokens: Tensor, share: float, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Puts a wrong code, uniformly drawn, in ceil(share n) places of each map (B, h, w).

    Raises:
        ValueError: when the share is outside (0, 1] or there is no other code.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a share of the tokens in (0, 1]")
    if vocab_size < 2:
        raise ValueError(f"vocab_size is {vocab_size}: there is no wrong code to put in")
    flat = tokens.flatten(1)
    count = math.ceil(share * flat.shape[1])
    order = torch.rand(flat.shape, generator=generator).argsort(1)[:, :count]
    shift = torch.randint(1, vocab_size, order.shape, generator=generator)
    wrong = (flat.gather(1, order) + shift) % vocab_size
    return flat.scatter(1, order, wrong).view_as(tokens)


@torch.no_grad()
def reencode(tok: MultiScaleVQVAE, features: Tensor, forced: list[Tensor]) -> list[Tensor]:
    """Algorithm 1 with its first maps forced: later maps code what these leave of the features.

    The most that the later maps can mend, greedily, by one who knows the image.
    """
    quantizer, tokens = tok.quantizer, list(forced)
    f_hat = quantizer.decode(forced) if forced else torch.zeros_like(features)
    for k in range(len(forced), len(tok.schedule)):
        z = quantizer.down(features - f_hat, k)
        h, w = z.shape[2:]
        codes = z.permute(0, 2, 3, 1).reshape(-1, quantizer.channels)
        tokens.append(quantizer.lookup_tokens(codes).view(-1, h, w))
        f_hat = f_hat + quantizer.contribution(k, quantizer.embed(tokens[-1]))
    return tokens


@torch.no_grad()
def repair(
    var: VAR,
    tok: MultiScaleVQVAE,
    images: Tensor,
    labels: Tensor,
    classifier: nn.Module,
    scale: int,
    share: float,
    *,
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.96,
    seed: int = 0,
    batch_size: int = 50,
) -> dict[str, Any]:
    """Do later maps mend a mistake? Corrupts a share of one map of an image and goes on.

    Maps before `scale` are the image's own in all arms, and the random numbers are the same:
      clean      that map is the image's own, too; the model draws the later ones
      corrected  that map is corrupted; the model draws the later ones, seeing it
      ignored    that map is corrupted; the later ones are those of "clean", drawn without seeing it
    And what later maps could mend, by one who knows the image:
      own        all maps are the image's own
      stored     that map is corrupted; the later ones are the image's own
      oracle     that map is corrupted; the tokenizer codes the rest anew

    Damage is the error of an arm above that of "clean", in features (against the encoder's) and in
    pixels; repair = 1 - damage(corrected) / damage(ignored): 1 is mended, 0 is no help, below 0 is
    worse than no correction. For the oracle "own" and "stored" stand in place of "clean" and
    "ignored". Of a raster AR it is 0 by construction: no later token adds anything at the place of
    an earlier one.

    Args:
        scale: the map to corrupt, from 1 to K - 1.
        share: of its tokens, rounded up.

    Raises:
        ValueError: on a scale or share out of range.
    """
    scales = len(tok.schedule)
    if not 1 <= scale < scales:
        raise ValueError(f"scale is {scale}, expected 1 to {scales - 1}: later maps are to mend it")
    features, own = tok.features(images), tok.encode(images)
    generator = torch.Generator().manual_seed(seed)
    wrong = corrupt(own[scale - 1].cpu(), share, tok.vocab_size, generator).to(images.device)
    damaged = [*own[: scale - 1], wrong]

    def call(part: Tensor, forced: list[Tensor], first: int) -> list[Tensor]:
        return draw_with(
            var, tok, part, forced, cfg=cfg, top_k=top_k, top_p=top_p, seed=seed + first
        )

    clean = _in_parts(call, labels, own[:scale], batch_size)
    arms = {
        "clean": clean,
        "corrected": _in_parts(call, labels, damaged, batch_size),
        "ignored": [*damaged, *clean[scale:]],
        "own": own,
        "stored": [*damaged, *own[scale:]],
        "oracle": reencode(tok, features, damaged),
    }
    changed = (wrong != own[scale - 1]).float().mean().item()
    row: dict[str, Any] = {"scale": scale, "share": share, "changed": changed, "n": len(images),
                           "cfg": cfg, "top_k": top_k, "top_p": top_p, "seed": seed}  # fmt: skip
    errors: dict[str, dict[str, Tensor]] = {"features": {}, "pixels": {}}
    for name, tokens in arms.items():
        f_hat, drawn = tok.quantizer.decode(tokens), tok.decode(tokens)
        errors["features"][name] = (f_hat - features).square().flatten(1).mean(1)
        errors["pixels"][name] = (drawn - images).square().flatten(1).mean(1)
        row |= mean_and_error(errors["features"][name], f"features_{name}")
        row |= mean_and_error(errors["pixels"][name], f"pixels_{name}")
        row |= mean_and_error(_right(classifier, drawn, labels), f"accuracy_{name}")
    for space, values in errors.items():
        for clean, ignored, arm in (("clean", "ignored", "corrected"), ("own", "stored", "oracle")):
            row |= repaired(values[clean], values[ignored], values[arm], f"{arm}_{space}")
    return row


def repaired(clean: Tensor, ignored: Tensor, corrected: Tensor, name: str) -> dict[str, float]:
    """1 - sum(corrected - clean) / sum(ignored - clean) with its standard error (delta method).

    Args:
        clean, ignored, corrected: (n,) errors of the same images.
    """
    damage, left = (ignored - clean).double(), (corrected - clean).double()
    ratio = (left.mean() / damage.mean()).item()
    # Var(left / damage) = Var(left - ratio damage) / (n mean(damage)^2)
    spread = (left - ratio * damage).std() / math.sqrt(len(damage)) / damage.mean().abs()
    return {f"repair_{name}": 1 - ratio, f"repair_{name}_se": spread.item()}
