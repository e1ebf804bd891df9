"""Our additions to the paper: two cures of codebook collapse, one in the loss, one by force.

Neither is in VAR. The entropy term is MAGVIT-v2's idea, the revival of dead codes RQ-VAE's; ours
look at every scale by itself, because it is the coarse ones that collapse to few codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.quantizer import MultiScaleQuantizer
from ..runtime import distributed


def code_diversity(quantizer: MultiScaleQuantizer, f: Tensor, tokens: Sequence[Tensor]) -> Tensor:
    """How far the scales are from using all codes alike: sum_k w_k (log V - H(mean p_k)).

    p = softmax(-|z - e_j|^2 / tau) over the codes, with tau half the typical squared distance to
    the nearest one; H is the entropy of its mean over the batch. A scale weighs in by the inverse
    of its tokens. Takes features (B, C, H, W), which alone get gradients, and their token pyramid;
    returns a scalar in [0, log V].
    """
    weights = [1 / n for n in quantizer.schedule.tokens_per_scale]
    total, cosine = f.new_zeros(()), quantizer.lookup == "cosine"
    with torch.autocast(f.device.type, enabled=False):
        with torch.no_grad():
            before = [torch.zeros_like(f), *quantizer.cumulative(tokens)[:-1]]
            codes = quantizer.codebook.weight.detach()
            # A copy, since codes may be revived before the backward pass.
            codes = F.normalize(codes, dim=1) if cosine else codes.clone()
        for k, (f_hat, weight) in enumerate(zip(before, weights)):
            z = quantizer.vectors(f.float() - f_hat, k)
            z = F.normalize(z, dim=1) if cosine else z
            distance = torch.addmm(codes.square().sum(1), z, codes.T, alpha=-2)
            nearest = (distance.amin(1) + z.square().sum(1)).mean().detach()
            nearest = distributed.mean(nearest)  # over the whole batch, as p's below
            p = (-2 * distance / nearest.clamp(min=1e-8)).softmax(1)
            mean = distributed.mean(p.mean(0)).clamp(min=1e-10)
            missing = math.log(quantizer.vocab_size) + (mean * mean.log()).sum()
            total = total + weight / sum(weights) * missing
    return total


class CodeRevival:
    """Keeps every code alive: a code that no token has used for long is moved onto live data.

    A code's use is an exponential average (`decay` a batch) of its share of the tokens, counted for
    each scale. A code whose best scale falls below `threshold` times an even share, 1 / V, is
    replaced by a vector that some scale had to look up; scales take turns by how little of the
    codebook they use.
    """

    def __init__(
        self, quantizer: MultiScaleQuantizer, decay: float = 0.98, threshold: float = 0.03
    ) -> None:
        self.quantizer, self.decay, self.threshold = quantizer, decay, threshold
        scales, codes = len(quantizer.schedule), quantizer.vocab_size
        device = quantizer.codebook.weight.device
        self.share = torch.full((scales, codes), 1.0 / codes, device=device)
        self.seen = torch.zeros(scales, codes, dtype=torch.bool, device=device)

    @torch.no_grad()
    def start(self, f: Tensor) -> None:
        """Places the codebook on the vectors of a first batch, scale after scale."""
        if not f.isfinite().all():
            return
        codes, scales = torch.arange(self.quantizer.vocab_size), len(self.quantizer.schedule)
        for k, part in enumerate(codes.tensor_split(scales)):
            vectors = self.quantizer.residuals(f)[k]
            pick = torch.randint(len(vectors), (len(part),))
            self.quantizer.codebook.weight[part] = vectors[pick]

    @torch.no_grad()
    def update(self, tokens: Sequence[Tensor]) -> None:
        """Counts one batch of token maps, all processes' shares of it."""
        counts = torch.zeros_like(self.share)
        for count, map_ in zip(counts, tokens):
            count.index_add_(0, map_.flatten(), torch.ones_like(map_.flatten(), dtype=count.dtype))
        counts = distributed.total(counts)
        self.share.lerp_(counts / counts.sum(1, keepdim=True), 1 - self.decay)
        self.seen |= counts > 0

    def usage(self, images: int) -> tuple[list[float], float]:
        """Codes seen in the `images` counted since the last call, as shares: each scale's, of what
        its tokens allow, and all scales', of the codebook."""
        codes = self.quantizer.vocab_size
        allowed = [min(codes, images * n) for n in self.quantizer.schedule.tokens_per_scale]
        shares = [int(seen.sum()) / most for seen, most in zip(self.seen, allowed)]
        overall = int(self.seen.any(0).sum()) / codes
        self.seen.zero_()
        return shares, overall

    @torch.no_grad()
    def revive(self, f: Tensor) -> int:
        """Moves the dead codes onto vectors of this batch, if it is finite; returns how many."""
        if not f.isfinite().all():
            return 0
        even = 1.0 / self.quantizer.vocab_size
        share = self.share.cpu()  # where the random numbers come from
        dead = (share.amax(0) < self.threshold * even).nonzero().flatten()
        if len(dead):
            alive = (share > self.threshold * even).float().mean(1)
            turns = torch.multinomial((1 - alive).clamp(min=1e-3), len(dead), replacement=True)
            residuals = self.quantizer.residuals(f)
            for code, k in zip(dead.tolist(), turns.tolist()):
                vectors = residuals[k]
                self.quantizer.codebook.weight[code] = vectors[torch.randint(len(vectors), (1,))][0]
            self.share[:, dead] = even
        return len(dead)

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, for a checkpoint."""
        return {"share": self.share, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores `state_dict`."""
        self.share.copy_(state["share"])
        self.seen.copy_(state["seen"])
