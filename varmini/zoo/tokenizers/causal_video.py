"""A causal video tokenizer: a frame is never encoded with a look at frames that come later.

Sources: Yu et al. 2023, "Language Model Beats Diffusion: Tokenizer is Key to Visual Generation"
(MAGVIT-v2, arXiv:2310.05737), section 3.2: convolutions padded in the past alone, so that the first
frame is encoded by itself, as an image is. Liu et al. 2025, "InfinityStar" (arXiv:2511.04675): each
latent frame is quantized as a pyramid of residuals in space, like Infinity's images; time is not
resized.

    1 + 2 n frames -> 1 + n latent frames: latent t holds frames 2t - 1 and 2t, and has seen 0 .. 2t
    sizes (1, 2, 4): residuals at three scales (InfinityStar); sizes (4,): one map (MAGVIT)

Changed: convolutions over time act on the small maps alone, inside VAR's own encoder and decoder of
single frames, which is cheap on a CPU; BSQ for both systems, where MAGVIT-v2 has LFQ, and
InfinityStar begins from a continuous video autoencoder. There is no group normalisation over time:
its mean would tell a frame of later ones. Left out: adversarial losses, stochastic quantizer depth;
the perceptual term is in `varmini.experiments.motion`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.autoencoder import Decoder, Encoder
from ...model.checks import as_pyramid, stray
from ...model.quantizer import full_float32
from ...model.scales import ScaleSchedule
from ...model.tokenizer import Reconstruction
from ...runtime.pretrained import Pretrained
from .multiscale_bsq import MultiScaleBSQConfig, MultiScaleBSQuantizer


@dataclass(frozen=True)
class CausalVideoConfig(MultiScaleBSQConfig):
    """Shape of a `CausalVideoTokenizer`; `side` and `sizes` are those of a latent frame."""

    sizes: tuple[int, ...] = (1, 2, 4)
    """Sides of the token maps of a latent frame, coarse to fine; one alone is no pyramid."""
    bits: int = 16
    """d, bits of a token."""
    hidden: int = 48
    """Channels where time is mixed."""
    width: int = 12
    """Channels of the first level in units of `multipliers`."""
    multipliers: tuple[int, ...] = (2, 4)
    """Channels of each level in units of `width`."""
    patch: int = 4
    """Pixels a side that are folded into channels first."""


def framewise(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a layer of images to each frame: (B, C, F, H, W) -> (B, C', F, H', W')."""
    frames = layer(x.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (len(x), -1)).transpose(1, 2)


class CausalConv3d(nn.Module):
    """3 x 3 x 3, over time and space, padded before the first frame and not after the last.

    Written as a convolution over the channels of three frames, which is the same sum and on a CPU
    many times as quick as `nn.Conv3d`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(3 * inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, H, W) -> the same, or 1 + (F - 1) / 2 frames at a stride of 2."""
        frames, x = x.shape[2], F.pad(x, (0, 0, 0, 0, 2, 0))
        past = [x[:, :, i : i + frames : self.stride] for i in range(3)]  # frames t - 2, t - 1, t
        return framewise(self.conv, torch.cat(past, dim=1))


class TimeBlock(nn.Module):
    """x + conv(silu(x)), causal."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(x))


class CausalVideoTokenizer(nn.Module, Pretrained):
    """Videos (B, C, 1 + 2 n, H, W) in [-1, 1] to maps of tokens (B, 1 + n, h_k, w_k), and back."""

    config_class = CausalVideoConfig
    kind = "causal-video"
    no_decay = ("quantizer",)

    def __init__(self, config: CausalVideoConfig) -> None:
        super().__init__()
        self.config, c = config, config
        if c.sizes[-1] != c.side:
            raise ValueError(f"sizes are {c.sizes}, expected to end at the side {c.side}")
        self.schedule = ScaleSchedule(c.sizes)
        network = c.network(c.hidden)
        self.encoder, self.decoder = Encoder(network), Decoder(network)
        self.past = nn.Sequential(
            TimeBlock(c.hidden), nn.SiLU(), CausalConv3d(c.hidden, c.bits, stride=2),
        )  # fmt: skip
        self.spread = nn.Sequential(
            CausalConv3d(c.bits, c.hidden), nn.SiLU(), CausalConv3d(c.hidden, 2 * c.hidden),
        )  # fmt: skip
        self.after = TimeBlock(c.hidden)
        self.quantizer = MultiScaleBSQuantizer(
            self.schedule, c.bits, beta=c.beta, entropy=c.entropy, balance=c.balance,
            sharpness=c.sharpness, group=c.group,
        )  # fmt: skip

    def features(self, videos: Tensor) -> Tensor:
        """What is quantized: (B, d, 1 + n, h, w).

        Raises:
            ValueError: on videos of another shape, type or range.
        """
        c = self.config
        given, side = tuple(getattr(videos, "shape", ())), c.image_size
        fits = len(given) == 5 and given[2] % 2 == 1 and given[0] > 0
        if not fits or (given[1], *given[3:]) != (c.image_channels, side, side):
            raise ValueError(f"videos have shape {given}, expected (B, {c.image_channels}, F, "
                             f"{side}, {side}), F odd: a first frame, and pairs")  # fmt: skip
        if not videos.is_floating_point() or stray(videos, -1.01, 1.01) is not None:
            raise ValueError("videos hold bytes or values beyond [-1, 1], expected floats in "
                             "[-1, 1]: use varmini.data.to_float")  # fmt: skip
        return self.past(framewise(self.encoder, videos)).float()

    def quantize(self, z: Tensor) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
        """Features -> z_q like z, K maps (B, 1 + n, h_k, w_k), loss, usage (K,)."""
        with full_float32(z.device.type):
            found = self.quantizer(z.transpose(1, 2).flatten(0, 1))  # a latent frame is an image
        z_q = found.z_q.unflatten(0, (len(z), -1)).transpose(1, 2)
        return z_q, [m.unflatten(0, (len(z), -1)) for m in found.tokens], found.loss, found.usage

    @torch.no_grad()
    def encode(self, videos: Tensor) -> list[Tensor]:
        """Videos (B, C, 1 + 2 n, H, W) -> K LongTensors (B, 1 + n, h_k, w_k)."""
        return self.quantize(self.features(videos))[1]

    @torch.no_grad()
    def decode(self, tokens: Sequence[Tensor], num_scales: int | None = None) -> Tensor:
        """Maps (B, 1 + n, h_k, w_k) -> videos (B, C, 1 + 2 n, H, W) in [-1, 1].

        Fewer latent frames give fewer frames, and num_scales the first scales alone.

        Raises:
            ValueError: on maps that do not fit, or tokens outside the vocabulary.
        """
        if any(m.ndim != 4 for m in tokens):
            raise ValueError(f"token maps have shapes {[tuple(m.shape) for m in tokens]}, expected "
                             f"(B, 1 + n, h, w) each")  # fmt: skip
        count = len(tokens[0])
        vocab = self.quantizer.vocab_sizes[0]
        maps = as_pyramid([m.flatten(0, 1) for m in tokens], self.schedule, vocab, num_scales)
        z_q = self.quantizer.embed(maps).unflatten(0, (count, -1)).transpose(1, 2)
        return self.decode_features(z_q).clamp(-1, 1)

    def decode_features(self, z_q: Tensor) -> Tensor:
        """Codes (B, d, 1 + n, h, w) -> videos (B, C, 1 + 2 n, H, W), not clamped."""
        pairs = self.spread(z_q).unflatten(1, (2, -1))  # (B, 2, hidden, 1 + n, h, w)
        frames = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)[:, :, 1:]  # latent 0 is one frame
        return framewise(self.decoder, self.after(frames)).float()

    def forward(self, videos: Tensor) -> Reconstruction:
        """The training pass: videos -> `images` (videos drawn), tokens, loss, usage, features."""
        z = self.features(videos)
        z_q, tokens, loss, usage = self.quantize(z)
        return Reconstruction(self.decode_features(z_q), tokens, loss, usage, z)
