"""The methods of the comparison and of the ablation: how each is built, trained and drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import sample
from ...model.transformer import VAR, VARConfig
from ...zoo.generators.dit import DiT, DiTConfig
from ...zoo.generators.maskgit import MaskGIT, MaskGITConfig
from ...zoo.generators.plain_var import PlainVAR
from ...zoo.generators.raster_ar import RasterAR, RasterARConfig
from .bed import Autoencoder, Bed

GRID = (6e-4, 1e-3, 2e-3)
"""Learning rates that are tried for every method."""


class Method(NamedTuple):
    """A trained system."""

    kind: str
    """Which autoencoder: "multi", "single" or "kl"."""
    build: Callable[[Bed, int], Any]
    """(bed, number of classes) -> the network."""


def _var(bed: Bed, classes: int, **options: Any) -> VARConfig:
    names = ("sizes", "vocab_size", "code_channels", "depth", "width", "heads")
    shape = {name: getattr(bed, name) for name in names}
    return VARConfig(**shape, init_gamma=0.1, num_classes=classes, **options)


def _other(bed: Bed, classes: int, quarters: int) -> dict[str, int]:
    """Depth in quarters of VAR's, so that 12 or 18 depth width^2 come out alike."""
    return dict(depth=bed.depth * quarters // 4, width=bed.width, heads=bed.heads,
                side=bed.side, num_classes=classes)  # fmt: skip


METHODS = {
    "var": Method("multi", lambda b, n: VAR(_var(b, n))),
    "raster-ar": Method("single", lambda b, n: RasterAR(
        RasterARConfig(**_other(b, n, 6), vocab_size=b.vocab_size))),
    "maskgit": Method("single", lambda b, n: MaskGIT(
        MaskGITConfig(**_other(b, n, 6), vocab_size=b.vocab_size))),
    "dit": Method("kl", lambda b, n: DiT(DiTConfig(**_other(b, n, 5), channels=b.latent_channels))),
    # For the ablation: without AdaLN and q/k normalisation, and with AdaLN alone.
    "var-plain": Method("multi", lambda b, n: PlainVAR(_var(b, n, qk_norm=False))),
    "var-adaln": Method("multi", lambda b, n: VAR(_var(b, n, qk_norm=False))),
}  # fmt: skip
COMPARED = ("var", "raster-ar", "maskgit", "dit")
"""Methods that are compared; the others serve the ablation alone."""


def training_loss(model: nn.Module, codes: Tensor, labels: Tensor, tok: nn.Module) -> Tensor:
    """The method's own loss on codes as `Codes.load` gives them; `tok` serves VAR's inputs."""
    if not isinstance(model, VAR):
        return model.training_loss(codes, labels)
    inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(codes))
    return F.cross_entropy(model(labels, inputs).flatten(0, 1), codes.flatten())


@torch.no_grad()
def held_out_loss(
    model: nn.Module, codes: Tensor, labels: Tensor, tok: nn.Module
) -> dict[str, float]:
    """{"val_loss": the mean loss in evaluation mode}, with the same random masks and noises always.

    Comparable within a method alone: cross-entropy a token, or squared error of the noise.
    """
    where, total = next(model.parameters()).device, 0.0
    torch.manual_seed(0)
    for x, y in zip(codes.split(250), labels.split(250)):
        total += training_loss(model.eval(), x.to(where), y.to(where), tok).item() * len(x)
    return {"val_loss": total / len(labels)}


@dataclass(frozen=True)
class Drawing:
    """A way to draw from a trained method: a row of the tables."""

    method: str
    name: str
    steps: Callable[[Bed], int]
    """Sequential network calls an image."""
    options: dict
    """What the method's `generate` (or VAR's `sample`) is given."""


DRAWINGS = (
    Drawing("var", "VAR", lambda b: len(b.sizes), {}),
    Drawing("raster-ar", "raster AR, cache", lambda b: b.side**2, {}),
    Drawing("raster-ar", "raster AR, no cache", lambda b: b.side**2, {"cached": False}),
    Drawing("maskgit", "MaskGIT, 8 rounds", lambda b: 8, {"rounds": 8}),
    Drawing("dit", "DiT, DDIM 25", lambda b: 25, {"steps": 25}),
    Drawing("dit", "DiT, DDIM 250", lambda b: 250, {"steps": 250}),
)
"""What is timed; quality is measured of the first drawing of each method, and of `LONG`."""
LONG = "DiT, DDIM 250"
"""The paper's way to draw from DiT. It takes long, so it is measured at one guidance alone."""


@dataclass(frozen=True)
class Setting:
    """A row of quality: what is drawn from which method."""

    method: str
    guidance: float = 1.0
    filtered: bool = True
    drawing: str = ""
    """Name of the drawing; empty: the method's first."""

    @property
    def key(self) -> tuple[str, float, str]:
        """Method, guidance and filtered as quality.csv has them."""
        return self.drawing or self.method, self.guidance, str(self.filtered)


ABLATION = (
    ("raster AR", Setting("raster-ar", filtered=False)),
    ("VAR, no AdaLN", Setting("var-plain", filtered=False)),
    ("+ AdaLN", Setting("var-adaln", filtered=False)),
    ("+ top-k, top-p", Setting("var-adaln")),
    ("+ guidance", Setting("var-adaln", guidance=2.5)),
    ("+ q/k normalisation", Setting("var", guidance=2.5)),
)
"""The paper's table 3 as far as a toy has its rows; guidance 2.5 is its cfg of 1.5."""


def settings(guidance: tuple[float, ...]) -> list[Setting]:
    """All rows of quality: the comparison at each guidance, and the ablation."""
    compared = [Setting(m, s) for m in COMPARED for s in guidance]
    compared.append(Setting("dit", max(guidance), drawing=LONG))
    return list(dict.fromkeys(compared + [setting for _, setting in ABLATION]))


def draw_images(
    model: nn.Module,
    own: Autoencoder,
    labels: Tensor,
    *,
    bed: Bed,
    guidance: float,
    seed: int,
    filtered: bool = True,
    **options: Any,
) -> Tensor:
    """Draws one batch, (B, C, H, W) in [-1, 1].

    own: the method's autoencoder. guidance: s of u + s (c - u), 1 for none; VAR's own ramps up to
    it, t = s - 1 at the end. filtered: the paper's top-k (900 of 4,096, as a share) and top-p, for
    VAR and raster AR.
    """
    top = {"top_k": round(bed.vocab_size * 900 / 4096), "top_p": 0.96}
    top = top if filtered else {"top_k": 0, "top_p": 0.0}
    if isinstance(model, VAR):
        return sample(model, own.model, labels, cfg=guidance - 1, seed=seed, **top)
    if isinstance(model, RasterAR):
        options |= top
    return own.decode(model.generate(labels, guidance=guidance, seed=seed, **options))
