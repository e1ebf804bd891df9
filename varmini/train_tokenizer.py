"""Stage 1: trains the multi-scale tokenizer from scratch."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import checkpoint, distributed, engine
from .classifier import Classifier
from .configs import TokenizerTraining
from .data import batches, check_batch_size, fitted
from .losses import PatchDiscriminator, PerceptualLoss, adaptive_weight, hinge_loss
from .muon import Muon
from .planner import check_batch, tokenizer_memory
from .quantizer import CodeRevival, MultiScaleQuantizer
from .symptoms import Symptoms
from .tokenizer import MultiScaleVQVAE


def perceptual_network(name: str) -> nn.Module | None:
    """The frozen network of the perceptual loss: "lpips" (its own package), a classifier, or none.

    Raises:
        ValueError: when the name is unknown or the package is not installed.
    """
    if not name:
        return None
    if name != "lpips":
        return PerceptualLoss(Classifier.from_pretrained(name)).to(engine.device())
    try:
        import lpips
    except ImportError:
        raise ValueError(
            "perceptual network 'lpips' needs its package: pip install "
            "'varmini[metrics]', or choose 'cifar10' or ''"
        ) from None
    network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
    return _MeanLPIPS(network).to(engine.device())


class _MeanLPIPS(nn.Module):
    """LPIPS as one number a batch; its package gives one an image."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.network(images, targets).mean()


@torch.no_grad()
def held_out_psnr(model: MultiScaleVQVAE, images: Tensor) -> float:
    """Mean PSNR in dB (range 2) of the reconstructions of `images` (N, C, H, W) in [-1, 1]."""
    model.eval()
    total = torch.zeros((), device=engine.device())
    own = images[distributed.rank() :: distributed.world()]
    for rows in torch.arange(len(own)).split(engine.batch_for(model.image_size)):
        if len(rows):
            part = engine.to_device(own[rows])
            with engine.autocast():
                drawn = model.decode(model.encode(part))
            error = (drawn - part).square().mean((1, 2, 3)).clamp(min=1e-10)
            total += (10 * torch.log10(4 / error)).sum()
    return distributed.total(total).item() / len(images)


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
    """Starts from a finished tokenizer and freezes all that decides its tokens.

    Raises:
        ValueError: when there is no such tokenizer, or it has another shape.
    """
    finished = MultiScaleVQVAE.from_pretrained(name)
    if finished.config != model.config:
        raise ValueError(
            f"tokenizer {name} is {finished.config}, but the run asks for {model.config}"
        )
    model.load_state_dict(finished.state_dict())
    for part in (model.encoder, model.pre_quant, model.quantizer):
        part.requires_grad_(False)


def train(
    config: TokenizerTraining, out: str | Path, *, overwrite: bool = False, resume: bool = False
) -> Path:
    """Trains a tokenizer; leaves config.json, model.safetensors, log.csv, run.json and state/.

    Under torchrun all processes call this (DDP), and each works on its share of every batch; what
    counts codes or compares them sees the whole batch.

    Args:
        config: what to train, on what, for how long.
        out: the run's folder.
        overwrite: replace an earlier run in `out`.
        resume: go on exactly where the run in `out` stopped.

    Returns:
        The folder, which `MultiScaleVQVAE.from_pretrained` loads (averaged weights).

    Raises:
        ValueError: on a folder in use, unknown data, a schedule that does not fit the images, or a
            batch that memory does not hold.
    """
    distributed.start()
    device = engine.device()
    with distributed.together():
        out = engine.check_folder(out, config, overwrite=overwrite, resume=resume)
        need = functools.partial(
            tokenizer_memory, config.model, bf16=engine.precision() is torch.bfloat16,
            recompute=config.recompute,
        )  # fmt: skip
        check_batch(need, config.batch_size // distributed.world())
        torch.manual_seed(config.seed)
        model = MultiScaleVQVAE(config.model).to(device)
        train_set, test_set = (
            fitted(config.data, split, model.image_size, config.model.image_channels)
            for split in ("train", "test")
        )
        held_out = torch.stack([test_set[i][0] for i in range(min(config.held_out, len(test_set)))])
        if tuple(held_out.shape[2:]) != model.image_size:
            raise ValueError(
                f"{model.schedule} times {model.factor} pixels a feature makes images of "
                f"{model.image_size}, but those of {config.data} have "
                f"{tuple(held_out.shape[2:])}: end the schedule at "
                f"{[n // model.factor for n in held_out.shape[2:]]}"
            )
        model.check_images(held_out[:1])
        if config.decoder_of:
            keep_tokens(model, config.decoder_of)
        perceptual = perceptual_network(config.perceptual_network if config.perceptual else "")
        if perceptual:
            perceptual(*[held_out[:1].to(device)] * 2)  # fails here, if it does not fit
        check_batch_size(config.batch_size, len(train_set))
        own = distributed.share(config.batch_size)
    discriminator = PatchDiscriminator(
        config.model.image_channels, layers=config.discriminator_layers
    ).to(device)
    codes = list(model.quantizer.parameters())
    quick = {"params": codes, "scale": config.quantizer_lr, "weight_decay": 0.0}
    kernels = muon_kernels(model) if config.muon_lr else []
    apart = [*codes, *kernels]
    groups = [*engine.decay_groups(model, config.weight_decay, apart=apart), quick]
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)
    optimizers = {"optimizer": optimizer}
    if kernels:
        group = {"params": kernels, "scale": config.muon_lr / config.lr}
        optimizers["muon"] = Muon([group], lr=config.muon_lr, weight_decay=config.weight_decay)
    adversary = torch.optim.AdamW(
        discriminator.parameters(), lr=config.lr, betas=(0.5, 0.9), weight_decay=0.0, fused=True
    )
    ema = engine.averaged(model, config.ema)
    coders = model.encoder, model.decoder
    layers = [layer for coder in coders for layer in (*coder.levels, *coder.middle)]
    engine.blockwise(layers, recompute=config.recompute, compile=False)
    network = distributed.replicate(model, some_unused=has_idle_phi(model.quantizer))
    judge = distributed.replicate(discriminator)
    updater = engine.Updater(model, list(optimizers.values()), config.clip)
    judge_updater = engine.Updater(discriminator, [adversary], math.inf)
    symptoms = Symptoms(config.lr)
    around = held_out - held_out.mean()
    grey = config.l1 * around.abs().mean().item() + config.l2 * around.square().mean().item()
    revival = CodeRevival(model.quantizer)
    parts = {
        "model": model,
        "ema": ema,
        "discriminator": discriminator,
        **optimizers,
        "adversary": adversary,
        "revival": revival,
    }
    out = engine.make_folder(out, clear=overwrite and not resume)
    start = checkpoint.restore(out / "state", parts) if resume else 0
    total = max(1, config.images // config.batch_size)
    adversarial_from = int(config.adversarial_start * total)
    run = engine.Run(out, config, start, "tokenizer")
    stream = batches(
        train_set,
        config.batch_size,
        seed=config.seed,
        start_step=start,
        flip=config.flip,
        workers=config.workers,
        part=own,
        on_device=True,
    )
    bar = engine.progress(range(start, total), "tokenizer", start)
    with engine.StopSignal() as stop:
        for step in bar:
            model.train()
            images = next(stream)[0]
            if step == 0 and not config.decoder_of:
                with torch.no_grad(), engine.autocast():
                    revival.start(distributed.gather(model.features(images)))
                distributed.from_main(model.quantizer.codebook.weight.data)
            share = engine.learning_rate_share(
                step, total, config.warmup, config.decay, config.final
            )
            for group in (g for o in (*optimizers.values(), adversary) for g in o.param_groups):
                group["lr"] = config.lr * share * group.get("scale", 1.0)

            with engine.autocast():
                result = network(images)
                far = perceptual(result.images, images) if perceptual else images.new_zeros(())
            reconstruction = (
                config.l1 * F.l1_loss(result.images, images)
                + config.l2 * F.mse_loss(result.images, images)
                + config.perceptual * far
            )
            # L = L_rec + lambda_P L_P + L_VQ + w lambda L_G   (VQGAN's objective, VAR section 3.1)
            loss = reconstruction + config.vq * result.loss
            if config.diversity > 0 and not config.decoder_of:
                loss = loss + config.diversity * model.quantizer.diversity(
                    result.features, result.tokens
                )
            fooling = images.new_zeros(())
            if config.adversarial > 0 and step >= adversarial_from:
                discriminator.requires_grad_(False)
                with engine.autocast():
                    fooling = -discriminator(result.images).float().mean()
                weight = adaptive_weight(reconstruction, fooling, model.decoder.last_layer)
                loss = loss + config.adversarial * weight * fooling
            loss.backward()
            updater.step(loss)
            ema.update_parameters(model)

            if config.adversarial > 0 and step >= adversarial_from:
                discriminator.requires_grad_(True)
                with engine.autocast():
                    scores = judge(torch.cat([images, result.images.detach()])).float()
                hinge_loss(*scores.chunk(2)).backward()
                judge_updater.step()

            revival.update(result.tokens)
            # Codes stop moving by force once the learning rate falls, so that the average settles.
            moving = step < (1 - config.decay) * total and not config.decoder_of
            if (step + 1) % config.revive_every == 0 and moving:
                with torch.no_grad(), engine.autocast():
                    revival.revive(distributed.gather(model.features(images)))
                distributed.from_main(model.quantizer.codebook.weight.data)

            done = step + 1
            if done % 10 == 0:
                bar.set_postfix(
                    loss=f"{distributed.mean(loss.detach()).item():.4f}",
                    images_s=f"{config.batch_size * (bar.format_dict['rate'] or 0):.0f}",
                )
            if done % config.log_every == 0 or done == total:
                seen = config.batch_size * ((step % config.log_every) + 1)
                usage, usage_all = revival.usage(seen)
                names = ("loss", "reconstruction", "vq", "perceptual", "adversarial")
                values = torch.stack([loss, reconstruction, result.loss, far, fooling]).detach()
                values = dict(zip(names, distributed.mean(values).tolist()))
                skipped = max(updater.take_skipped(), judge_updater.take_skipped())
                symptoms.skipped(done, skipped)
                pixels = values["reconstruction"] - config.perceptual * values["perceptual"]
                symptoms.of_tokenizer(done, pixels, grey)
                tokens = seen * model.schedule.num_tokens
                symptoms.of_codebook(done, usage_all, model.vocab_size, tokens)
                psnr = held_out_psnr(ema.module, held_out)
                run.log(
                    done,
                    done * config.batch_size,
                    {
                        "lr": config.lr * share,
                        **values,
                        "psnr": psnr,
                        **{f"usage_{k}": u for k, u in enumerate(usage, 1)},
                        "usage_all": usage_all,
                        "skipped": skipped,
                    },
                )
            stop.agree(done)
            if done % config.checkpoint_every == 0 or done == total or stop.received:
                checkpoint.save(out / "state", done, parts)
            stop.exit_if_received(out)
    if distributed.is_main():
        ema.module.save_pretrained(out)
    distributed.wait()
    return out
