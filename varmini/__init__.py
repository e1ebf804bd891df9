"""varmini: Visual AutoRegressive modeling (next-scale prediction), small enough to read."""

from .sampler import inpaint, sample
from .scales import ScaleSchedule
from .tokenizer import MultiScaleVQVAE, TokenizerConfig
from .transformer import VAR, VARConfig

__version__ = "0.1.0"
__all__ = [
    "VAR",
    "MultiScaleVQVAE",
    "ScaleSchedule",
    "TokenizerConfig",
    "VARConfig",
    "inpaint",
    "sample",
]
