"""A small residual classifier: the features for the perceptual loss and for the toy metrics.

ImageNet-sized work uses LPIPS and the Inception network from their own packages; a 32x32 toy needs
neither. `varmini train classifier` trains this one.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data import batches, check_batch_size, in_order, load_images
from ..fast.quicken import quicken
from ..runtime.machine import autocast, device
from ..runtime.pretrained import Pretrained
from .configs import ClassifierConfig, ClassifierTraining
from .loop import Loop
from .optim import Updater, decay_groups
from .run_folder import check_folder


class ResidualStage(nn.Module):
    """Halves the size and changes the width: two 3x3 convolutions beside an averaged shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.shortcut(F.avg_pool2d(x, 2)))


class Classifier(nn.Module, Pretrained):
    """A residual network for small images (He et al. 2016, reduced to one block a stage)."""

    config_class = ClassifierConfig
    kind = "classifier"

    def __init__(self, config: ClassifierConfig = ClassifierConfig()) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(config.image_channels, widths[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList(ResidualStage(a, b) for a, b in zip(widths, widths[1:]))
        self.head = nn.Linear(widths[-1], config.num_classes)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """The outputs (B, c_i, H / 2^i, W / 2^i) of the stem and of each stage i.

        Args:
            images: (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: when the images have another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.config.image_channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, expected "
                f"(B, {self.config.image_channels}, H, W)"
            )
        maps = [F.relu(self.stem_norm(self.stem(images)))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The averaged last map, (B, widths[-1]): the space that image sets are compared in."""
        return self.feature_maps(images)[-1].float().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits (B, num_classes) of images (B, C, H, W) in [-1, 1]."""
        return self.head(self.features(images))


def random_shift(images: Tensor, most: int) -> Tensor:
    """Moves each image (B, C, H, W) by up to `most` pixels either way, reflecting at the border."""
    b, c, h, w = images.shape
    padded = F.pad(images, (most,) * 4, mode="reflect")
    dy, dx = torch.randint(0, 2 * most + 1, (2, b, 1))
    rows = (dy + torch.arange(h))[:, None, :, None].expand(b, c, h, w + 2 * most)
    columns = (dx + torch.arange(w))[:, None, None, :].expand(b, c, h, w)
    return padded.gather(2, rows).gather(3, columns)


@torch.no_grad()
def accuracy(model: Classifier, dataset: Dataset) -> float:
    """Share of the images of `dataset` that `model` names rightly, in evaluation mode."""
    model.eval()
    right = 0
    for images, labels in in_order(dataset, 500):
        with autocast():
            right += int((model(images.to(device())).argmax(1).cpu() == labels).sum())
    return right / len(dataset)


def train(
    config: ClassifierTraining, out: str | Path, *, overwrite: bool = False, resume: bool = False
) -> Path:
    """Trains a classifier from scratch; leaves config.json, model.safetensors, log.csv and state/.

    SGD with Nesterov momentum, a one-cycle schedule, label smoothing, mirrored and shifted images.
    The model's channels and classes follow the data; the rest is as in `train_tokenizer.train`.
    """
    train_set, test_set = (load_images(config.data, split) for split in ("train", "test"))
    shape = {"image_channels": train_set.channels, "num_classes": len(train_set.classes)}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **shape))
    check_batch_size(config.batch_size, len(train_set))
    out = check_folder(out, config, overwrite=overwrite, resume=resume)
    torch.manual_seed(config.seed)
    layout = {"memory_format": torch.channels_last}
    model = quicken(Classifier(config.model).to(device(), **layout))
    groups = decay_groups(model, config.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    epoch = len(train_set) // config.batch_size
    total = config.epochs * epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=total, pct_start=0.25, final_div_factor=1000
    )
    updater = Updater(model, [optimizer])
    torch.manual_seed(config.seed)  # of the shifts
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    logged = range(epoch, total + 1, epoch)
    loop = Loop("classifier", config, out, state, total=total, log_at=logged, resume=resume,
                clear=overwrite)  # fmt: skip
    stream = batches(train_set, config.batch_size, seed=config.seed, start_step=loop.start,
                     flip=True)  # fmt: skip
    with loop:
        for _ in loop:
            model.train()
            images, labels = next(stream)
            images = random_shift(images, 4).to(device(), **layout)
            with autocast():
                logits = model(images)
            loss = F.cross_entropy(logits.float(), labels.to(device()), label_smoothing=0.1)
            loss.backward()
            updater.step(loss)
            schedule.step()
            loop.show(loss)
            if loop.logs:
                rate, skipped = schedule.get_last_lr()[0], updater.take_skipped()
                loop.log({"loss": loss.item(), "lr": rate, "skipped": skipped,
                          "test_accuracy": accuracy(model, test_set)})  # fmt: skip
    return loop.finish(model, torch.bfloat16)
