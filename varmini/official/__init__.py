"""The official checkpoints, in and out."""

from .checkpoints import load_official, to_official

__all__ = ["load_official", "to_official"]
