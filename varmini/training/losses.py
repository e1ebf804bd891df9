"""Losses of the tokenizer besides the quantizer's own: reconstruction, perceptual, adversarial."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..fast.halves import halved
from ..runtime import distributed
from ..runtime.machine import autocast, device
from .classifier import Classifier
from .configs import TokenizerTraining
from .optim import Updater


def perceptual_network(
    name: str, *, in_halves: bool = False
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The frozen distance of the perceptual loss: "lpips" (its own package), a classifier, or none.

    in_halves: as in `quicken`, for a classifier.
    Raises ValueError when the name is unknown or the package is not installed.
    """
    if not name:
        return None
    if name != "lpips":
        return PerceptualLoss(Classifier.from_pretrained(name), in_halves).to(device())
    try:
        import lpips
    except ImportError:
        raise ValueError(
            "perceptual network 'lpips' needs its package: pip install "
            "'varmini[metrics]', or choose 'cifar10' or ''"
        ) from None
    network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False).to(device())
    return lambda images, targets: network(images, targets).mean()


class PerceptualLoss(nn.Module):
    """Distance of two images in the feature maps of a frozen network, as LPIPS without its heads.

    d(x, y) = mean_i mean_pos |phi_i(x)/|phi_i(x)| - phi_i(y)/|phi_i(y)||^2 over the stages i
    (Zhang et al. 2018, equation 1 with equal weights), which equals 2 - 2 cos.
    """

    def __init__(self, classifier: Classifier, in_halves: bool = False) -> None:
        super().__init__()
        self.run = functools.partial(halved, self.distances, ()) if in_halves else self.distances
        self.classifier = classifier.eval().requires_grad_(False)
        self.classifier.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Scalar distance of images and targets, both (B, C, H, W) in [-1, 1].

        Grey images are shown to a colour network as three equal channels.
        """
        return self.run(images, targets).mean()

    def distances(self, images: Tensor, targets: Tensor) -> Tensor:
        """The same of each pair, (B,)."""
        with torch.no_grad():
            wanted = self.maps(targets)
        # The stem's map is left out: it is little more than the pixels, and the largest of all.
        pairs = zip(self.maps(images)[1:], wanted[1:])
        cosines = [F.cosine_similarity(a, b, dim=1).float().mean((1, 2)) for a, b in pairs]
        return 2 - 2 * torch.stack(cosines).mean(0)

    def maps(self, images: Tensor) -> list[Tensor]:
        """What the network sees of images (B, C, H, W), a map a stage."""
        if images.shape[1] == 1:
            images = images.expand(-1, self.classifier.config.image_channels, -1, -1)
        return self.classifier.feature_maps(images)


class PatchDiscriminator(nn.Sequential):
    """Tells real patches from drawn ones: images (B, C, H, W) -> scores (B, 1, h, w).

    PatchGAN (Isola et al. 2017) with group instead of batch normalisation, so that a step on real
    and a step on drawn images do not share statistics.
    """

    def __init__(self, image_channels: int, layers: int = 2) -> None:
        width = 64
        blocks: list[nn.Module] = [nn.Conv2d(image_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers):
            a, b = width * 2 ** (i - 1), width * 2**i
            blocks += [nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.GroupNorm(8, b), nn.LeakyReLU(0.2)]
        super().__init__(*blocks, nn.Conv2d(width * 2 ** (layers - 1), 1, 3, 1, 1))


class Adversary:
    """The discriminator and its optimizer: it learns to tell, the tokenizer learns to fool it."""

    def __init__(self, config: TokenizerTraining) -> None:
        network = PatchDiscriminator(config.model.image_channels, config.discriminator_layers)
        self.network = network.to(device())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, betas=(0.5, 0.9), weight_decay=0.0, fused=True
        )
        self.replica = distributed.replicate(self.network)
        self.updater = Updater(self.network, [self.optimizer])

    def fooled(self, drawn: Tensor) -> Tensor:
        """L_G = -mean D(x_hat), with gradients for the images (B, C, H, W) alone."""
        self.network.requires_grad_(False)
        with autocast():
            return -self.network(drawn).float().mean()

    def learn(self, images: Tensor, drawn: Tensor) -> None:
        """One step on as many real as drawn images."""
        self.network.requires_grad_(True)
        with autocast():
            scores = self.replica(torch.cat([images, drawn])).float()
        hinge_loss(*scores.chunk(2)).backward()
        self.updater.step()


def hinge_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """The discriminator's loss: 1/2 mean(relu(1 - D(x)) + relu(1 + D(x_hat)))."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + drawn).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """lambda = |grad L_rec| / (|grad L_G| + 1e-4) at the decoder's last layer, clamped to [0, 1e4].

    Balances the adversarial against the reconstruction loss (VQGAN, equation 7).
    """
    wanted = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)[0]
    given = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    wanted, given = distributed.mean(wanted), distributed.mean(given)  # of the whole batch
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0, 1e4).detach()
