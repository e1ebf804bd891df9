"""Every generator of the zoo, small and with random weights, and something for it to learn."""

import torch
from tiny import redraw
from torch import nn

from varmini.zoo.generators.dit import DiT
from varmini.zoo.generators.factorised_ar import FactorisedAR
from varmini.zoo.generators.fractal_ar import FractalAR
from varmini.zoo.generators.igpt import IGPT
from varmini.zoo.generators.infinity import Infinity
from varmini.zoo.generators.mar import MAR
from varmini.zoo.generators.maskgit import MaskGIT
from varmini.zoo.generators.raster_ar import RasterAR
from varmini.zoo.generators.rq_transformer import RQTransformer
from varmini.zoo.generators.titok_maskgit import TiTokMaskGIT

NET = dict(width=16, heads=2, num_classes=3)
V = 6
SMALL = {
    "igpt": (IGPT, dict(NET, depth=2, side=3, vocab_size=V)),
    "raster-ar": (RasterAR, dict(NET, depth=2, side=3, vocab_size=V)),
    "factorised-ar": (FactorisedAR, dict(NET, depth=1, side=3, vocab_sizes=(V, V + 2))),
    "rq-transformer": (RQTransformer, dict(NET, depth=1, side=3, code_depth=2, vocab_size=V,
                                           code_channels=4)),
    "maskgit": (MaskGIT, dict(NET, depth=2, side=3, vocab_size=V)),
    "titok-maskgit": (TiTokMaskGIT, dict(NET, depth=2, latents=9, vocab_size=V)),
    "mar": (MAR, dict(NET, depth=1, side=3, channels=2, buffer=2, head_depth=1, head_width=16)),
    "fractal-ar": (FractalAR, dict(grids=(2, 2), widths=(16, 16, 16), depths=(1, 1, 1),
                                   head_width=8, channels=2, values=V, patches=2, num_classes=3)),
    "dit": (DiT, dict(NET, depth=1, side=3, channels=2)),
    "infinity": (Infinity, dict(NET, depth=2, sizes=(1, 2, 3), bits=2, flips=0.3)),
}  # fmt: skip
SHAPES = {
    "factorised-ar": (3, 3, 2), "rq-transformer": (3, 3, 2), "titok-maskgit": (9,),
    "mar": (2, 3, 3), "dit": (2, 3, 3), "infinity": (2, 3, 3), "fractal-ar": (2, 4, 4),
}  # fmt: skip
FEATURES = ("mar", "dit", "infinity")
"""Those that learn from real numbers."""
SHORT = {"dit": {"steps": 3}, "mar": {"rounds": 4, "diffusion_steps": 3}}
"""Options with which `draw` is short."""
LABELS = torch.tensor([0, 2, 3, 1])


def new(name, **options):
    """A model as it is before training."""
    torch.manual_seed(0)
    cls, shape = SMALL[name]
    return cls(cls.config_class(**(shape | options)))


def make(name, **options):
    """A model in evaluation mode whose weights are all random, but for its norms."""
    model = redraw(new(name, **options), 0, 0.25).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.reset_parameters()
    return model


def batch_of(name, count=4):
    """Random tokens or latents, such as the model learns from."""
    generator = torch.Generator().manual_seed(1)
    shape = (count, *SHAPES.get(name, (3, 3)))
    if name in FEATURES:
        return torch.randn(shape, generator=generator)
    return torch.randint(V, shape, generator=generator)


def flat(drawn):
    """A pyramid of token maps as one row an image; anything else as it is."""
    return torch.cat([t.flatten(1) for t in drawn], dim=1) if isinstance(drawn, list) else drawn
