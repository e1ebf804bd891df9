"""VAR without AdaLN, for the ablation: the class enters through the start token alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...model.transformer import VAR, VARConfig


class Unconditional(nn.Module):
    """Stands in for an AdaLN layer: learned gains and biases that are the same for all classes.

    gamma = 1 stays as it is; 1 + scale and shift are the weights of an ordinary layer norm.

    Args:
        layers: blocks served.
        ones: how many of the `parts` modulations are such fixed gates.
    """

    def __init__(self, layers: int, parts: int, ones: int, width: int) -> None:
        super().__init__()
        self.register_buffer("gates", torch.ones(layers, ones, width), persistent=False)
        self.gain_and_bias = nn.Parameter(torch.zeros(layers, parts - ones, width))

    def forward(self, gate: Tensor) -> Tensor:
        """Whatever the class: (B, width) -> (B, layers * parts * width)."""
        same = torch.cat([self.gates, self.gain_and_bias], dim=1).flatten()
        return same.to(gate.dtype).expand(len(gate), -1)


class PlainVAR(VAR):
    """A `VAR` whose blocks are ordinary pre-norm blocks, without modulation by the class."""

    kind = "plain-var"
    no_decay = (*VAR.no_decay, "gain_and_bias")

    def __init__(self, config: VARConfig) -> None:
        super().__init__(config)
        layers = 1 if config.shared_adaln else config.depth
        self.modulation = Unconditional(layers, 6, 2, config.width)
        self.head_modulation = Unconditional(1, 2, 0, config.width)
