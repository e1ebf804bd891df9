"""Trains the small classifier that gives perceptual features and the toy metrics."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import batches, in_order, load_images
from .classifier import Classifier
from .configs import ClassifierTraining
from .engine import Run, autocast, check_folder, decay_groups, device, make_folder, progress


def random_shift(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Moves each image (B, C, H, W) by up to `most` pixels either way, reflecting at the border."""
    b, c, h, w = images.shape
    padded = F.pad(images, (most,) * 4, mode="reflect")
    dy, dx = torch.randint(0, 2 * most + 1, (2, b, 1), generator=generator)
    rows = (dy + torch.arange(h))[:, None, :, None].expand(b, c, h, w + 2 * most)
    columns = (dx + torch.arange(w))[:, None, None, :].expand(b, c, h, w)
    return padded.gather(2, rows).gather(3, columns)


@torch.no_grad()
def accuracy(model: Classifier, dataset) -> float:
    """Share of the images of `dataset` that `model` names rightly, in evaluation mode."""
    model.eval()
    right = 0
    for images, labels in in_order(dataset, 500):
        with autocast():
            right += int((model(images.to(device())).argmax(1).cpu() == labels).sum())
    return right / len(dataset)


def train(config: ClassifierTraining, out: Path, *, overwrite: bool = False) -> Path:
    """Trains a classifier from scratch; writes config.json, model.safetensors and log.csv to `out`.

    SGD with Nesterov momentum, a one-cycle schedule, label smoothing, mirrored and shifted images.

    Raises:
        ValueError: when `out` already holds a run and `overwrite` is not set, or on unknown data.
    """
    out = check_folder(out, config, overwrite=overwrite, resume=False)
    torch.manual_seed(config.seed)
    train_set = load_images(config.data, "train")
    test_set = load_images(config.data, "test")
    classes = len(train_set.classes)
    if (train_set.channels, classes) != (config.model.image_channels, config.model.num_classes):
        raise ValueError(
            f"{config.data} has {train_set.channels} channels and {classes} classes, the model "
            f"{config.model.image_channels} and {config.model.num_classes}: give "
            f"--model.image-channels {train_set.channels} --model.num-classes {classes}"
        )
    model = Classifier(config.model).to(device(), memory_format=torch.channels_last)
    groups = decay_groups(model, config.weight_decay)
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=0.9, nesterov=True)
    steps = config.epochs * (len(train_set) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=steps, pct_start=0.25, final_div_factor=1000
    )
    run = Run(make_folder(out, clear=overwrite), config)
    generator = torch.Generator().manual_seed(config.seed)
    stream = batches(train_set, config.batch_size, seed=config.seed, flip=True)
    bar = progress(range(1, steps + 1), "classifier")
    for step in bar:
        model.train()
        images, labels = next(stream)
        images = random_shift(images, 4, generator).to(device(), memory_format=torch.channels_last)
        with autocast():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels.to(device()), label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if step % (steps // config.epochs) == 0:
            run.log(
                step,
                step * config.batch_size,
                {
                    "loss": loss.item(),
                    "lr": schedule.get_last_lr()[0],
                    "test_accuracy": accuracy(model, test_set),
                },
            )
    return model.save_pretrained(out, torch.bfloat16)
