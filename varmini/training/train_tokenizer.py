"""Stage 1: trains the multi-scale tokenizer from scratch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data import batches, check_batch_size, fitted
from ..fast.quicken import quicken
from ..model.quantizer import MultiScaleQuantizer
from ..model.tokenizer import MultiScaleVQVAE
from ..runtime import distributed
from ..runtime.machine import autocast, batch_for, device, to_device
from .codebook import CodeRevival, code_diversity
from .configs import TokenizerTraining
from .loop import Loop
from .losses import Adversary, adaptive_weight, perceptual_network
from .optim import Updater, averaged, blockwise, make_optimizers, set_rates
from .run_folder import check_folder


def train(
    config: TokenizerTraining, out: str | Path, *, overwrite: bool = False, resume: bool = False
) -> Path:
    """Trains a tokenizer; leaves config.json, model.safetensors, log.csv, run.json and state/.

    Under torchrun all processes call this (DDP), and each works on its share of every batch; what
    counts codes or compares them sees the whole batch.

    Args:
        config: what to train, on what, for how long.
        out: the run's folder.
        overwrite, resume: replace an earlier run in `out`, or go on exactly where it stopped.

    Returns:
        `out`, which `MultiScaleVQVAE.from_pretrained` loads (averaged weights).

    Raises:
        ValueError: on a folder in use, unknown data, or a schedule that does not fit the images.
    """
    distributed.start()
    with distributed.together():
        out = check_folder(out, config, overwrite=overwrite, resume=resume)
        torch.manual_seed(config.seed)
        once = config.adversarial == 0  # `adaptive_weight` asks for gradients again
        model = quicken(MultiScaleVQVAE(config.model).to(device()), in_halves=once)
        train_set, held_out = image_sets(config, model)
        if config.decoder_of:
            keep_tokens(model, config.decoder_of)
        name = config.perceptual_network if config.perceptual else ""
        perceptual = perceptual_network(name, in_halves=once)
        if perceptual:
            perceptual(*[held_out[:1].to(device())] * 2)  # fails here, if it does not fit
        own = distributed.share(config.batch_size)
    stage = Stage1(config, model, perceptual, held_out)
    total = max(1, config.images // config.batch_size)
    logged = range(config.log_every, total + 1, config.log_every)
    loop = Loop("tokenizer", config, out, stage.state, total=total, log_at=logged, resume=resume,
                clear=overwrite)  # fmt: skip
    stream = batches(
        train_set, config.batch_size, seed=config.seed, start_step=loop.start, flip=config.flip,
        workers=config.workers, part=own, on_device=True,
    )  # fmt: skip
    with loop:
        for step in loop:
            images = next(stream)[0]
            lr = set_rates(stage.all_optimizers, config, step, total)
            if step == 0 and not config.decoder_of:
                stage.move_codes(images, stage.revival.start)
            terms = stage.step(images, with_adversary=step >= int(config.adversarial_start * total))
            # Codes stop moving by force once the learning rate falls, so that the average settles.
            moving = step < (1 - config.decay) * total and not config.decoder_of
            if (step + 1) % config.revive_every == 0 and moving:
                stage.move_codes(images, stage.revival.revive)
            loop.show(terms["loss"])
            if loop.logs:
                seen = config.batch_size * (step % config.log_every + 1)
                loop.log({"lr": lr} | stage.measure(terms, loop, seen))
    return loop.finish(stage.ema.module)


class Stage1:
    """The networks of stage 1 and one step of their training; images held out: (N, C, H, W)."""

    def __init__(
        self, config: TokenizerTraining, model: MultiScaleVQVAE,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None, held_out: Tensor,
    ) -> None:  # fmt: skip
        self.config, self.model, self.perceptual = config, model, perceptual
        self.held_out, self.revival = held_out, CodeRevival(model.quantizer)
        self.adversary = Adversary(config)
        codes = {"params": list(model.quantizer.parameters()), "weight_decay": 0.0}
        optimizers = make_optimizers(
            model, config.lr, config.weight_decay, config.muon_lr, matrices=muon_kernels(model),
            own=[codes | {"scale": config.quantizer_lr}], betas=(0.9, 0.99),
        )  # fmt: skip
        self.all_optimizers = [*optimizers.values(), self.adversary.optimizer]
        self.updater = Updater(model, optimizers.values(), config.clip)
        self.ema = averaged(model, config.ema)
        self.state = {"model": model, "ema": self.ema, "discriminator": self.adversary.network}
        self.state |= optimizers
        self.state |= {"adversary": self.adversary.optimizer, "revival": self.revival}
        coders = model.encoder, model.decoder
        layers = [layer for coder in coders for layer in (*coder.levels, *coder.middle)]
        blockwise(layers, recompute=config.recompute)
        self.network = distributed.replicate(model, some_unused=has_idle_phi(model.quantizer))

    def step(self, images: Tensor, *, with_adversary: bool) -> dict[str, Tensor]:
        """One update on images (B, C, H, W) in [-1, 1]; returns the losses, scalars."""
        c, nothing = self.config, images.new_zeros(())
        with_adversary = with_adversary and c.adversarial > 0
        with autocast():
            result = self.network(images)
            far = self.perceptual(result.images, images) if self.perceptual else nothing
        # L_rec: |x - x_hat|, |x - x_hat|^2, and their distance in a network's features
        l1, l2 = F.l1_loss(result.images, images), F.mse_loss(result.images, images)
        reconstruction = c.l1 * l1 + c.l2 * l2 + c.perceptual * far
        # L = L_rec + lambda_P L_P + L_VQ + w lambda L_G   (VQGAN's objective, VAR section 3.1)
        loss = reconstruction + c.vq * result.loss
        if c.diversity > 0 and not c.decoder_of:  # ours, not the paper's
            spread = code_diversity(self.model.quantizer, result.features, result.tokens)
            loss = loss + c.diversity * spread
        fooled = nothing
        if with_adversary:
            fooled = self.adversary.fooled(result.images)
            weight = adaptive_weight(reconstruction, fooled, self.model.decoder.last_layer)
            loss = loss + c.adversarial * weight * fooled
        loss.backward()
        self.updater.step(loss)
        self.ema.update_parameters(self.model)

        if with_adversary:
            self.adversary.learn(images, result.images.detach())
        self.revival.update(result.tokens)
        terms = {"loss": loss, "reconstruction": reconstruction, "vq": result.loss}
        terms |= {"perceptual": far, "adversarial": fooled}
        return {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def move_codes(self, images: Tensor, move: Callable[[Tensor], Any]) -> None:
        """Lets `move` put codes onto features of the whole batch, alike in all processes."""
        with autocast():
            move(distributed.gather(self.model.features(images)))
        distributed.from_main(self.model.quantizer.codebook.weight.data)

    def measure(self, terms: dict[str, Tensor], loop: Loop, images: int) -> dict[str, float]:
        """A row of the log: losses, PSNR on the held-out images, codes seen in so many images."""
        c, model = self.config, self.model
        values = dict(zip(terms, distributed.mean(torch.stack(list(terms.values()))).tolist()))
        usage, usage_all = self.revival.usage(images)
        around = self.held_out - self.held_out.mean()
        grey = c.l1 * around.abs().mean().item() + c.l2 * around.square().mean().item()
        pixels = values["reconstruction"] - c.perceptual * values["perceptual"]
        loop.symptoms.of_tokenizer(loop.done, pixels, grey)
        tokens = images * model.schedule.num_tokens
        loop.symptoms.of_codebook(loop.done, usage_all, model.vocab_size, tokens)
        skipped = max(self.updater.take_skipped(), self.adversary.updater.take_skipped())
        return {
            **values,
            "psnr": held_out_psnr(self.ema.module, self.held_out),
            **{f"usage_{k}": u for k, u in enumerate(usage, 1)},
            "usage_all": usage_all,
            "skipped": skipped,
        }


@torch.no_grad()
def held_out_psnr(model: MultiScaleVQVAE, images: Tensor) -> float:
    """Mean PSNR in dB (range 2) of the reconstructions of `images` (N, C, H, W) in [-1, 1]."""
    model.eval()
    total = torch.zeros((), device=device())
    own = images[distributed.rank() :: distributed.world()]
    for part in own.split(batch_for(model.image_size)):
        if len(part):
            part = to_device(part)
            with autocast():
                drawn = model.decode(model.encode(part))
            error = (drawn - part).square().mean((1, 2, 3)).clamp(min=1e-10)
            total += (10 * torch.log10(4 / error)).sum()
    return distributed.total(total).item() / len(images)


def image_sets(config: TokenizerTraining, model: MultiScaleVQVAE) -> tuple[Dataset, Tensor]:
    """The images to train on, and those held out, (N, C, H, W) in [-1, 1]."""
    train_set, test_set = (
        fitted(config.data, split, model.image_size, config.model.image_channels)
        for split in ("train", "test")
    )
    held_out = torch.stack([test_set[i][0] for i in range(min(config.held_out, len(test_set)))])
    size = tuple(held_out.shape[2:])
    if size != model.image_size:
        raise ValueError(
            f"{model.schedule} at {model.factor} pixels a feature makes images of "
            f"{model.image_size}, but those of {config.data} have {size}: end the schedule at "
            f"{[n // model.factor for n in size]}"
        )
    model.check_images(held_out[:1])
    check_batch_size(config.batch_size, len(train_set))
    return train_set, held_out


def has_idle_phi(quantizer: MultiScaleQuantizer) -> bool:
    """Whether some phi serves no scale, so that no gradient will ever reach it."""
    phis, scales = len(quantizer.phis), range(len(quantizer.schedule))
    return phis > 0 and len({quantizer.phi_index(k) for k in scales}) < phis


def muon_kernels(model: MultiScaleVQVAE) -> list[nn.Parameter]:
    """The kernels inside encoder and decoder: all but those next to pixels or codes."""
    coders = model.encoder, model.decoder
    layers = [layer for coder in coders for layer in (coder.levels, coder.middle)]
    return [p for layer in layers for p in layer.parameters() if p.ndim > 1 and p.requires_grad]


def keep_tokens(model: MultiScaleVQVAE, name: str) -> None:
    """Starts from a finished tokenizer, of the same shape; freezes all that decides its tokens."""
    finished = MultiScaleVQVAE.from_pretrained(name)
    if finished.config != model.config:
        raise ValueError(f"tokenizer {name} is {finished.config}, expected {model.config}")
    model.load_state_dict(finished.state_dict())
    for part in (model.encoder, model.pre_quant, model.quantizer):
        part.requires_grad_(False)
