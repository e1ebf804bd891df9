"""An official checkpoint as it is given, a file or a state dict: clean names, and its errors."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from ..model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ..model.transformer import VAR, VARConfig
from ..runtime.pretrained import Unfilled, read_tensors
from .names import State

Source = str | os.PathLike | Mapping[str, Tensor]

# What DDP, FSDP, activation checkpointing and torch.compile put into names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Buffers that follow from the sizes alone.
DERIVED = {"attn_bias_for_masking", "lvl_1L", "zero_k_bias", "ema_vocab_hit_SV"}
NAMED = 20  # of each kind of problem in an error


class Checkpoint:
    """An official state dict under clean names, with all that is wrong with it.

    Args:
        source: a path or a state dict.
        kind: "vae" or "var".

    Raises:
        ValueError: when there is no dictionary of tensors to be had from `source`.
    """

    def __init__(self, source: Source, kind: str) -> None:
        self.label, content = read(source, kind)
        # The official trainer keeps both models and its own state in one file.
        model = "vae_local" if kind == "vae" else "var_wo_ddp"
        for key in ("trainer", model, "state_dict", "model"):
            content = content[key] if isinstance(content.get(key), Mapping) else content
        self.state: State = {}
        self.problems: list[str] = []
        for name, value in content.items():
            clean = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
            if clean.rpartition(".")[2] in DERIVED:
                continue
            if not isinstance(value, Tensor):
                self.problems.append(f"{name} is a {type(value).__name__}, expected a tensor")
                continue
            if not value.is_floating_point():
                self.problems.append(f"{name} is {value.dtype}, expected floating numbers")
            if clean in self.state:
                self.problems.append(f"{clean} is there twice")
            self.state[clean] = value
        other = "class_emb.weight" if kind == "vae" else "quantize.embedding.weight"
        if other in self.state:
            raise ValueError(
                f"{self.label} holds {other}, so it is not the {kind}: give the "
                f"tokenizer first and the transformer second"
            )

    def has(self, pattern: str) -> bool:
        """Whether there is a tensor of this name; * stands for anything."""
        return any(fnmatchcase(name, pattern) for name in self.state)

    def number(self, prefix: str) -> int:
        """How many numbered parts follow `prefix`: one more than the highest number."""
        parts = (
            name[len(prefix) :].partition(".")[0] for name in self.state if name.startswith(prefix)
        )
        return max((int(part) + 1 for part in parts if part.isdecimal()), default=0)

    def size(self, what: str, default: int, *places: tuple[str, int]) -> int:
        """The size that most tensors in `places` (pattern, axis) have, so that an odd one shows."""
        found = {
            name: tensor.shape[axis]
            for pattern, axis in places
            for name, tensor in self.state.items()
            if fnmatchcase(name, pattern) and tensor.ndim > axis
        }
        if not found:
            return default
        ranked = Counter(found.values()).most_common(2)
        if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
            self.problems.append(
                f"{what} is unclear: " + ", ".join(f"{n} in {name}" for name, n in found.items())
            )
        return ranked[0][0]

    def fill(
        self, cls: type, config: TokenizerConfig | VARConfig, views_of: Callable[[State], State]
    ) -> MultiScaleVQVAE | VAR:
        """Builds cls(config) with these weights, or names all that is wrong in one ValueError."""
        # No memory and no time for weights that are replaced at once.
        with torch.device("meta"), Unfilled():
            model = cls(config)
        own = {
            name: torch.empty(t.shape, dtype=torch.float32)
            for name, t in model.state_dict().items()
        }
        views = views_of(own)
        wrong = {
            name: f"{name} is {tuple(self.state[name].shape)}, expected {tuple(view.shape)}"
            for name, view in views.items()
            if name in self.state and self.state[name].shape != view.shape
        }
        found = [
            self.problems,
            [f"unknown {name}" for name in self.state if name not in views],
            [f"missing {name}" for name in views if name not in self.state],
            [*wrong.values()],
        ]
        if any(found):
            text = "; ".join(
                line
                for group in found
                for line in group[:NAMED]
                + [f"and {len(group) - NAMED} more"] * (len(group) > NAMED)
            )
            if wrong.keys() & {"pos_1LC", "pos_start", "lvl_embed.weight"}:
                text += f"; sizes={config.sizes} may not be those it was trained with"
            raise ValueError(f"{self.label} does not fit an official {cls.__name__}: {text}")
        for name, view in views.items():
            view.copy_(self.state.pop(name))  # popped, so that memory falls as ours fills
        model.load_state_dict(own, assign=True)
        return model.eval()


def read(source: Source, kind: str) -> tuple[str, Mapping]:
    """(what to call it in an error, content) of a path or state dict."""
    if isinstance(source, Mapping):
        return f"the {kind} state dict", source
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"{kind} is a {type(source).__name__}, expected the path of a .pth or "
            f".safetensors file, or a state dict"
        )
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"{path} is no file: expected the official {kind} checkpoint, .pth or .safetensors"
        )
    if path.suffix == ".safetensors":
        return str(path), read_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path} is damaged or holds more than tensors, which varmini does not "
            f"unpickle ({type(error).__name__}): download it again"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return str(path), content
