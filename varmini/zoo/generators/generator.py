"""The protocol of the zoo's generators, so that one loop can train each of them.

model.loss(batch, labels).backward()                # batch: what the tokenizer's encode gave,
                                                    # or its features (Infinity)
images = tokenizer.decode(model.draw(labels, seed=0, cfg=1.5))
model.steps(**options)                              # sequential steps of draw(**options)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...model.checks import as_labels
from ...model.filters import draw, filter_logits
from ...runtime.pretrained import Pretrained
from ..parts import drop_labels, guided


@dataclass(frozen=True, kw_only=True)
class ClassConfig:
    """What the configurations of class-conditional generators share."""

    num_classes: int = 10
    """Classes; the label after the last one is the null class."""
    label_dropout: float = 0.1
    """Chance that a training image is shown the null class, for guidance."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ClassConfig):
    """What those with one width share."""

    depth: int = 6
    """Transformer blocks."""
    width: int = 128
    """Channels of the residual stream."""
    heads: int = 4
    """Attention heads."""


class Generator(nn.Module, Pretrained):
    """p(tokens | class). A subclass gives `training_loss`, `generate` and `steps`."""

    no_decay: tuple[str, ...] = ()
    by_rows: tuple[str, ...] = ()
    """Parts that may train on a half of a batch at a time, as `varmini.fast.halves.divide` does."""

    def training_loss(self, batch: Tensor, labels: Tensor) -> Tensor:
        """The method's own loss, a scalar; in training mode some labels are dropped."""
        raise NotImplementedError

    def generate(self, labels: Tensor, *, guidance: float, seed: int, **options: Any) -> Tensor:
        """Draws a batch; guidance is s of u + s (c - u)."""
        raise NotImplementedError

    def steps(self, **options: Any) -> int:
        """Sequential calls of the innermost network per image, with these options of `draw`."""
        raise NotImplementedError

    @property
    def null(self) -> int:
        """Label of the null class, which guidance subtracts."""
        return self.config.num_classes

    def shown(self, labels: Tensor) -> Tensor:
        """Labels (B,) as a training step shows them: in training mode some are the null class."""
        chance = self.config.label_dropout
        return drop_labels(labels, chance, self.null) if self.training else labels

    def conditions(self, given: Tensor) -> Tensor:
        """Labels (B,) as `draw` is given them, checked: raises as `as_labels`."""
        return as_labels(given, self.config.num_classes)

    def loss(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Training loss of a batch as the tokenizer encodes it, labels (B,) in [0, num_classes)."""
        return self.training_loss(batch, labels)

    @torch.no_grad()
    def draw(self, labels: Tensor, *, seed: int = 0, cfg: float = 0.0, **options: Any) -> Tensor:
        """Draws what the tokenizer decodes, one image a label.

        Args:
            labels: (B,) integers in [0, num_classes]; num_classes is the null class.
            seed: the same seed and batch give the same result.
            cfg: strength of the guidance, u + (1 + cfg) (c - u); 0 is none. MAR grows to it from 0,
                and FractalAR changes u first.
            options: the method's own, as of its `generate`.

        Raises:
            ValueError: on labels out of range, or a cfg below 0.
        """
        if not cfg >= 0:
            raise ValueError(f"cfg is {cfg}, expected 0 (no guidance) or more")
        where = next(self.parameters()).device
        labels = self.conditions(labels).to(where)
        return self.generate(labels, guidance=1 + cfg, seed=seed, **options)


def draw_in_order(
    following: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor,
    count: int,
    null: int,
    *,
    guidance: float,
    seed: int,
    top_k: int,
    top_p: float,
) -> Tensor:
    """Draws `count` tokens one after the other, guided: a LongTensor (B, count).

    following: (tokens so far (n, i), labels (n,)) -> logits (n, V) of the next.
    """
    noise = torch.rand(len(labels), count, generator=torch.Generator().manual_seed(seed))
    noise, tokens = noise.to(labels.device), labels.new_empty(len(labels), 0)
    for i in range(count):
        logits = filter_logits(guided(following, tokens, labels, null, guidance), top_k, top_p)
        tokens = torch.cat([tokens, draw(logits[:, None], noise[:, i : i + 1])], dim=1)
    return tokens
