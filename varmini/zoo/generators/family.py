"""The generators of the zoo by name, each with its tokenizer; VAR itself is `varmini.VAR`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from .dit import DiT
from .factorised_ar import FactorisedAR
from .fractal_ar import FractalAR
from .generator import Generator
from .igpt import IGPT
from .infinity import Infinity
from .mar import MAR
from .maskgit import MaskGIT
from .raster_ar import RasterAR
from .rq_transformer import RQTransformer
from .titok_maskgit import TiTokMaskGIT


class Member(NamedTuple):
    """A generator and what it draws."""

    cls: type[Generator]
    tokenizer: str
    """A name of `TOKENIZERS`, "kl", "palette" (`igpt.Palette`), or "" where it has none."""
    fit: Callable[[Any], dict[str, Any]]
    """Of a tokenizer: the fields of `cls.config_class` that it decides."""
    learns: str = "encode"
    """What makes batches of images: this method of the tokenizer."""


def _grid(tok: Any) -> dict[str, Any]:
    return {"side": tok.config.side, "vocab_size": tok.quantizer.vocab_sizes[0]}


def _palette(tok: Any) -> dict[str, Any]:
    c = tok.config
    return {"side": c.side - 2 * c.border, "vocab_size": c.colours}


def _latent(tok: Any) -> dict[str, Any]:
    return {"side": tok.config.side, "channels": tok.config.latent_channels}


def _residual(tok: Any) -> dict[str, Any]:
    return _grid(tok) | {"code_depth": tok.config.depth, "code_channels": tok.config.code_channels}


def _pyramid(tok: Any) -> dict[str, Any]:
    return {"sizes": tok.config.sizes, "bits": tok.config.bits}


GENERATORS = {
    "igpt": Member(IGPT, "palette", _palette),
    "raster-ar": Member(RasterAR, "vqgan", _grid),
    "raster-ar-ibq": Member(RasterAR, "ibq", _grid),
    "factorised-ar": Member(
        FactorisedAR,
        "open-magvit2",
        lambda tok: {"side": tok.config.side, "vocab_sizes": tok.quantizer.vocab_sizes},
    ),
    "rq-transformer": Member(RQTransformer, "rq-vae", _residual),
    "maskgit": Member(MaskGIT, "vqgan", _grid),
    "titok-maskgit": Member(
        TiTokMaskGIT,
        "titok",
        lambda tok: {"latents": tok.config.latents, "vocab_size": tok.config.latent_vocab},
    ),
    "mar": Member(MAR, "kl", _latent),
    "fractal-ar": Member(FractalAR, "", lambda tok: {}),
    "dit": Member(DiT, "kl", _latent),
    "infinity": Member(Infinity, "multiscale-bsq", _pyramid, "features"),
    "infinity-sc": Member(
        Infinity, "multiscale-bsq", lambda tok: _pyramid(tok) | {"flips": 0.3}, "features"
    ),
}
"""Name to class and tokenizer."""


def build(name: str, tokenizer: nn.Module | None, **shape: Any) -> Generator:
    """A new generator that draws what this tokenizer decodes.

    Args:
        name: of `GENERATORS`.
        tokenizer: of the kind named there, trained; None for "fractal-ar", which decodes itself.
        shape: depth, width, heads and other fields of its configuration.

    Raises:
        ValueError: on an unknown name, or a tokenizer of another kind.
    """
    if name not in GENERATORS:
        raise ValueError(f"no generator named {name!r}, expected one of: {', '.join(GENERATORS)}")
    member = GENERATORS[name]
    try:
        fitting = member.fit(tokenizer)
    except AttributeError:
        raise ValueError(f"the tokenizer is a {type(tokenizer).__name__}, expected "
                         f"{member.tokenizer!r} for {name!r}") from None  # fmt: skip
    model = member.cls(member.cls.config_class(**(fitting | shape)))
    if isinstance(model, RQTransformer):
        model.codebook.copy_(tokenizer.quantizer.codebook.detach())
    return model
