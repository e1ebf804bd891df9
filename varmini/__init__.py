"""varmini: Visual AutoRegressive modeling (next-scale prediction), small enough to read."""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from .runtime import WAITING

if TYPE_CHECKING:
    from .fast.drawing import sample
    from .fast.painting import inpaint
    from .fast.quicken import quicken
    from .model.config import TokenizerConfig, VARConfig
    from .model.scales import ScaleSchedule
    from .model.tokenizer import MultiScaleVQVAE
    from .model.transformer import VAR

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    for _name, _value in WAITING.items():  # read when torch loads, once
        os.environ.setdefault(_name, _value)

__version__ = "0.1.0"
__all__ = [
    "VAR",
    "MultiScaleVQVAE",
    "ScaleSchedule",
    "TokenizerConfig",
    "VARConfig",
    "inpaint",
    "quicken",
    "sample",
]

_HOMES = {
    "VAR": "model.transformer",
    "MultiScaleVQVAE": "model.tokenizer",
    "ScaleSchedule": "model.scales",
    "TokenizerConfig": "model.config",
    "VARConfig": "model.config",
    "inpaint": "fast.painting",
    "quicken": "fast.quicken",
    "sample": "fast.drawing",
}


def __getattr__(name: str) -> object:
    """Loads a public name when it is first used, so that `varmini --help` does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return found
