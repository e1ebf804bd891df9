"""The transformer of VAR: predicts each whole token map from all smaller ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fast.layers import Linear
from ..runtime.precision import forget
from ..runtime.pretrained import Pretrained
from .attention import KVCache, spans
from .block import Block, BlockModulation, modulate, split_modulations
from .scales import ScaleSchedule, Size


@dataclass(frozen=True)
class VARConfig:
    """Shape of a `VAR`. The paper's rule: width 64 d, d heads, drop path 0.1 d / 24 at depth d."""

    depth: int = 16
    """Transformer blocks."""
    width: int = 1024
    """Channels of the residual stream."""
    heads: int = 16
    """Attention heads."""
    sizes: tuple[Size, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    """Sizes of the token maps; the tokenizer's."""
    vocab_size: int = 4096
    """Codes in the tokenizer's codebook."""
    code_channels: int = 32
    """Length of a code."""
    num_classes: int = 1000
    """Classes; the label after the last one is the null class."""
    mlp_ratio: float = 4.0
    """Width of the feed-forward layer in units of `width`."""
    shared_adaln: bool = False
    """One modulation layer for all blocks (the 512-pixel model) instead of one a block."""
    qk_norm: bool = True
    """Normalise queries and keys, with a learned temperature a head."""
    drop_path: float = 0.0
    """Chance that the last block is skipped for a training image; earlier ones in proportion."""
    label_dropout: float = 0.1
    """Chance that a training image is shown the null class, for guidance."""
    init_gamma: float = 1e-3
    """Scale of the initial AdaLN gates (1e-3 up to depth 20, 1e-4 at 24, 1e-5 at 30)."""


class VAR(nn.Module, Pretrained):
    """Next-scale prediction: p(r_1, ..., r_K | class) = prod_k p(r_k | r_1, ..., r_{k-1}, class).

    The input at scale k is the picture so far, averaged down to that scale's grid; the output at
    the same positions are the logits of r_k itself, with no shift inside a scale (section 3.2).

    Args:
        config: the shape of the network.

    Raises:
        ValueError: when the heads do not divide the width.
    """

    config_class = VARConfig
    kind = "var"
    no_decay = (
        "class_embedding",
        "start_position",
        "position",
        "level_embedding",
        "log_scale",
        "offsets",
    )

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        for name in ("depth", "width", "heads", "vocab_size", "code_channels", "num_classes"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name} is {getattr(config, name)}, expected at least 1")
        if round(config.width * config.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio is {config.mlp_ratio}, expected more than 0")
        for name in ("drop_path", "label_dropout"):
            if not 0 <= getattr(config, name) <= 1:
                raise ValueError(f"{name} is {getattr(config, name)}, expected a chance in [0, 1]")
        if config.width % config.heads:
            raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}")
        self.config, w = config, config.width
        self.schedule = ScaleSchedule(config.sizes)
        first, total = self.schedule.tokens_per_scale[0], self.schedule.num_tokens
        self.class_embedding = nn.Embedding(config.num_classes + 1, w)
        self.start_position = nn.Parameter(torch.empty(1, first, w))
        self.position = nn.Parameter(torch.empty(1, total, w))
        self.level_embedding = nn.Embedding(len(self.schedule), w)
        self.word = Linear(config.code_channels, w)
        # All blocks' modulations come from one product a step, not from one a block.
        self.modulation = Linear(w, 6 * w * (1 if config.shared_adaln else config.depth))
        if config.shared_adaln:
            self.offsets = nn.Parameter(torch.empty(config.depth, 6, w))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = Linear(w, 2 * w)
        self.head = Linear(w, config.vocab_size)
        self.register_buffer("mask", self.schedule.mask(), persistent=False)
        self.register_buffer("level_ids", self.schedule.level_ids(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """The official initialisation: std sqrt(1 / 3w), branches and gates small at first."""
        c = self.config
        std = math.sqrt(1 / c.width / 3)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif not name.endswith("log_scale"):
                nn.init.trunc_normal_(p, std=std)
        with torch.no_grad():
            for block in self.blocks:
                block.attention.proj.weight /= math.sqrt(2 * c.depth)
                block.fc2.weight /= math.sqrt(2 * c.depth)
            gates = self.modulation.weight.view(-1, 6, c.width, c.width)
            if c.shared_adaln:  # the official code scales the blocks' offsets alone then
                gates = nn.init.normal_(self.offsets, std=c.width**-0.5)
            gates[:, :2] *= c.init_gamma
            gates[:, 2:] *= 0.5
            self.head_modulation.weight *= 0.5
            self.head.weight *= 0.02

    def condition(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the class decides.

        Args:
            labels: (B,).

        Returns:
            Start (B, h_1 w_1, w), the blocks' modulations (depth, B, 6, w), the head's (B, 2, w).
        """
        embedded = self.class_embedding(labels)
        start = embedded[:, None] + self.start_position
        gate = F.silu(embedded)
        modulations = self.modulation(gate).unflatten(1, (-1, 6, self.config.width)).transpose(0, 1)
        if self.config.shared_adaln:
            modulations = modulations + self.offsets[:, None].to(modulations.dtype)
        return start, modulations, self.head_modulation(gate).unflatten(1, (2, -1))

    def place(self, part: slice) -> Tensor:
        """Position and level embedding of the tokens in `part`: (1, l, w)."""
        return self.position[:, part] + self.level_embedding(self.level_ids[part])

    def logits(self, x: Tensor, head: Tensor) -> Tensor:
        """(B, l, w) and the head's modulation (B, 2, w) -> logits (B, l, V) in float32."""
        return self.head(self.before_head(x, head)).float()

    def before_head(self, x: Tensor, head: Tensor) -> Tensor:
        """(B, l, w) and the head's modulation (B, 2, w) -> what the head's product reads."""
        scale, shift = head.unsqueeze(2).unbind(1)
        return modulate(x, scale, shift)

    def skip_branches(self, modulations: Tensor, draws: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): shuts the gates of some branches of some images.

        The chance grows in proportion to depth, from 0 to `drop_path`; gates that stay open grow
        by 1 / (1 - chance), which keeps the mean.

        Args:
            modulations: (depth, B, 6, w).
            draws: (B, 2 depth), uniform in [0, 1).
        """
        keep = 1 - torch.linspace(0, self.config.drop_path, len(modulations), device=draws.device)
        keep = keep[:, None, None]
        draws = draws.unflatten(1, (-1, 2)).transpose(0, 1)  # (depth, B, 2)
        gates = modulations[:, :, :2] * ((draws < keep) / keep.clamp(min=1e-3))[..., None]
        return torch.cat([gates.to(modulations.dtype), modulations[:, :, 2:]], dim=2)

    def forward(
        self, labels: Tensor, teacher_inputs: Tensor, draws: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: logits of all scales at once.

        Args:
            labels: (B,) LongTensor in [0, num_classes]; num_classes is the null class.
            teacher_inputs: (B, L - h_1 w_1, C) from `MultiScaleQuantizer.teacher_inputs`.
            draws: (B, 1 + 2 depth), uniform in [0, 1): what label dropout and drop path go by in
                training mode; None draws them here.

        Returns:
            (B, L, V) float32. In training mode some labels are dropped for the null class; in
            evaluation mode none are, and the result is deterministic.

        Raises:
            ValueError: on labels or inputs of another shape, type or range.
        """
        labels = self.check_labels(labels)
        first, total = self.schedule.tokens_per_scale[0], self.schedule.num_tokens
        expected = (len(labels), total - first, self.config.code_channels)
        shape = tuple(getattr(teacher_inputs, "shape", ()))
        if shape != expected:
            raise ValueError(
                f"teacher_inputs have shape {shape}, expected "
                f"{expected} for {len(labels)} labels and {self.schedule}"
            )
        if self.training:
            if draws is None:
                draws = torch.rand(len(labels), 1 + 2 * self.config.depth, device=labels.device)
            dropped = draws[:, 0] < self.config.label_dropout
            labels = labels.masked_fill(dropped, self.config.num_classes)
        start, modulations, head = self.condition(labels)
        if self.training and self.config.drop_path > 0:
            modulations = self.skip_branches(modulations, draws[:, 1:])
        x = torch.cat(
            [start, self.word(teacher_inputs.to(self.word.weight)).to(start.dtype)], dim=1
        )
        x = x + self.place(slice(0, total))
        parts = spans(self.schedule, self.mask)
        for block, modulation in zip(self.blocks, split_modulations(modulations, x.dtype)):
            x = block(x, modulation, parts)
        return self.logits(x, head)

    def step(self, k: int, x: Tensor, modulations: Tensor, head: Tensor, cache: KVCache) -> Tensor:
        """One scale of generation: what `forward` computes for scale k, from cached earlier scales.

        Args:
            k: the scale, from 0; earlier ones must have been stepped through with this cache.
            x: (B, h_k w_k, w): the start (k = 0), or `word` of the next input.
            modulations, head: from `condition`.

        Returns:
            (B, h_k w_k, V) float32 logits of r_k.
        """
        return self.logits(self.advance(k, x, split_modulations(modulations, x.dtype), cache), head)

    def advance(
        self, k: int, x: Tensor, modulations: list[BlockModulation], cache: KVCache
    ) -> Tensor:
        """`step` without the head: (B, h_k w_k, w) -> (B, h_k w_k, w)."""
        part = self.schedule.slices[k]
        x = x + self.place(part)
        for i, (block, modulation) in enumerate(zip(self.blocks, modulations)):
            x = block(x, modulation, None, cache, i, part)
        return x

    def train(self, mode: bool = True) -> Self:
        """Sets training or evaluation mode; training drops the copy made for sampling."""
        if mode:
            forget(self)
        return super().train(mode)

    def check_labels(self, labels: Tensor) -> Tensor:
        """Returns `labels` on this model's device, or raises a ValueError naming what is wrong.

        The range of labels that lie on a GPU is not looked at: reading values stalls a GPU. A data
        set's were looked at when they were read, those of `sample` are before they get there.
        """
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.long:
            raise ValueError(
                f"labels are {getattr(labels, 'dtype', type(labels).__name__)} of shape "
                f"{tuple(getattr(labels, 'shape', ()))}, expected a LongTensor (B,)"
            )
        if labels.numel() and labels.device.type == "cpu":
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high > self.config.num_classes:
                raise ValueError(
                    f"label {low if low < 0 else high} is outside the classes, expected "
                    f"0 to {self.config.num_classes - 1}, or {self.config.num_classes} "
                    f"for the null class"
                )
        return labels.to(self.head.weight.device)
