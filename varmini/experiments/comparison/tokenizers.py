"""Trains every tokenizer of the family with one recipe: the live bed's, whatever the quantizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ...data import batches, fitted
from ...fast.halves import divide
from ...fast.quicken import quicken
from ...model.tokenizer import MultiScaleVQVAE
from ...runtime.machine import autocast, device
from ...training.configs import TokenizerTraining
from ...training.loop import Loop
from ...training.losses import perceptual_network
from ...training.optim import Updater, averaged, make_optimizers, set_rates
from ...training.presets import PRESETS
from ...training.run_folder import check_folder
from ...training.train_tokenizer import muon_kernels
from ...training.train_tokenizer import train as train_multi_scale
from ...zoo.generators.igpt import Palette, PaletteConfig
from ...zoo.tokenizers.family import TOKENIZERS
from ...zoo.tokenizers.kl import KLAutoencoder, KLConfig
from ...zoo.tokenizers.vqvae import VQVAEConfig

if TYPE_CHECKING:
    from .bed import Bed

LIVE = PRESETS["fashion"].tokenizer
"""The recipe."""


class Builder(NamedTuple):
    """A tokenizer to train."""

    cls: Any
    config: Any
    lacks: str = ""
    """What it is not given against the collapse of its codebook; "" for nothing."""
    start: bool = True
    """Whether its codes start on the features of a first batch."""
    options: dict[str, Any] = {}
    """Changes of the recipe."""


def _without(name: str, lacks: str, start: bool = True, **config: Any) -> Builder:
    cls = TOKENIZERS[name]
    return Builder(cls, cls.config_class(**config), lacks, start)


KL = KLConfig(side=4, latent_channels=16, image_channels=1, width=16, norm_groups=4,
              multipliers=(1, 2, 4), attention=False)  # fmt: skip
BUILDERS: dict[str, Builder] = {
    "var": Builder(MultiScaleVQVAE, LIVE.model),
    **{name: Builder(cls, cls.config_class()) for name, cls in TOKENIZERS.items()},
    "kl": Builder(KLAutoencoder, KL),
    "palette": Builder(Palette, PaletteConfig(border=1)),  # Fashion-MNIST's is black
    "titok-proxy": Builder(TOKENIZERS["vqvae"], VQVAEConfig(side=8, multipliers=(1, 2))),
    "var-bare": Builder(MultiScaleVQVAE, LIVE.model, "revival and diversity",
                        options={"revive_every": 10**9, "diversity": 0.0}),
    "vqvae-bare": _without("vqvae", "start on data, revival", start=False, revive_below=0.0),
    "rq-vae-bare": _without("rq-vae", "start on data, revival", start=False, revive_below=0.0),
    "vqgan-bare": _without("vqgan", "start on data", start=False),
    "vit-vqgan-bare": _without("vit-vqgan", "short codes: 64 channels", code_channels=64),
    "lfq-bare": _without("lfq", "entropy terms", entropy=0.0),
    "bsq-bare": _without("bsq", "entropy terms", entropy=0.0),
    "ibq-bare": _without("ibq", "entropy terms", entropy=0.0),
}  # fmt: skip
"""By name: the family, and some of it without its remedy against collapse.

VAR's revival and diversity, VQ-VAE's start and revival and VQGAN's start are not in their papers.
"""
FAMILY = ("var", *TOKENIZERS, "kl")
"""The tokenizers of the table."""
BARE = tuple(name for name in BUILDERS if name.endswith("-bare"))
"""Those without their remedy."""


def train_tokenizer(
    name: str, bed: Bed, out: Path, seed: int, proxy: nn.Module | None = None
) -> Path:
    """Trains a tokenizer, or goes on with the run in `out`.

    proxy: the VQ-VAE whose tokens TiTok's decoder learns first; its weights are taken over.
    """
    builder, resume = BUILDERS[name], (out / "run.json").exists()
    config = dataclasses.replace(LIVE, data=bed.data, images=bed.tokenizer_images, seed=seed,
                                 batch_size=min(LIVE.batch_size, bed.tokenizer_images),
                                 **builder.options)  # fmt: skip
    if builder.cls is MultiScaleVQVAE:
        return train_multi_scale(config, out, resume=resume)
    torch.manual_seed(seed)
    model = builder.cls(builder.config).to(device())
    images = fitted(bed.data, "train", (32, 32), 1)
    if name == "palette":  # k-means, no training
        shown = torch.stack([images[i][0] for i in range(min(2000, len(images)))]).to(device())
        if not shown.equal(F.pad(F.pad(shown, [-2] * 4), [2] * 4, value=-1)):  # not black there
            model = Palette(PaletteConfig()).to(device())
        model.fit(shown)
        model.save_pretrained(out)
        return out
    if proxy is not None:
        model.proxy.load_state_dict(proxy.state_dict())
    config = dataclasses.replace(config, model=builder.config)
    return _train(quicken(model), config, images, out, resume, builder.start)


def _train(
    model: nn.Module, config: TokenizerTraining, data: Any, out: Path, resume: bool, start: bool
) -> Path:
    """The protocol of `zoo.tokenizers.tokenizer`, with VAR's reconstruction loss."""
    out = check_folder(out, config, overwrite=False, resume=resume)
    divide(model)
    once = "decoder" in model.by_rows  # asked once for its gradients
    distance = perceptual_network(config.perceptual_network, in_halves=once)
    codes = [p for p in getattr(model, "quantizer", nn.Module()).parameters() if p.requires_grad]
    own = [{"params": codes, "weight_decay": 0.0, "scale": config.quantizer_lr}] if codes else []
    plain = hasattr(model.encoder, "levels")  # VAR's own encoder and decoder
    optimizers = make_optimizers(
        model, config.lr, config.weight_decay, config.muon_lr, own=own, betas=(0.9, 0.99),
        matrices=muon_kernels(model) if plain else inner_matrices(model),
    )  # fmt: skip
    ema, updater = averaged(model, config.ema), Updater(model, optimizers.values(), config.clip)
    state = {"model": model, "ema": ema, **optimizers}
    adversary = model.adversary()
    if adversary is not None:
        adversary = adversary.to(device())
        against = torch.optim.AdamW(adversary.parameters(), config.lr, betas=(0.5, 0.9))
        state |= {"discriminator": adversary, "adversary": against}
    total = max(1, config.images // config.batch_size)
    loop = Loop("tokenizer", config, out, state, total=total, log_at=range(100, total, 100),
                resume=resume, go_on="the same command goes on")  # fmt: skip
    stream = batches(data, config.batch_size, seed=config.seed, start_step=loop.start, flip=True,
                     on_device=True)  # fmt: skip
    with loop:
        for step in loop:
            images = next(stream)[0]
            set_rates([state[k] for k in (*optimizers, "adversary") if k in state], config, step,
                      total)  # fmt: skip
            if step == 0 and start:
                model.start(images)
            model.before_step(step / total, shown=loop.logs)
            with autocast():
                result = model(images)
                drawn = images if result.images is None else result.images
                far = distance(drawn, images) if drawn is not images else images.new_zeros(())
            l1, l2 = F.l1_loss(drawn, images), F.mse_loss(drawn, images)
            # L_rec = l1 |x - x_hat| + l2 |x - x_hat|^2 + lambda_P L_P;  L = L_rec + vq L_quantizer
            reconstruction = config.l1 * l1 + config.l2 * l2 + config.perceptual * far
            loss = reconstruction + config.vq * result.loss
            fooling = adversary is not None and step >= config.adversarial_start * total
            if fooling:
                last = model.decoder.last_layer
                loss = loss + adversary.generator_loss(reconstruction, result.images, last)
            loss.backward()
            updater.step(loss)
            ema.update_parameters(model)
            model.after_step(result)
            if fooling:
                adversary.discriminator_loss(images, result.images).backward()
                against.step()
                against.zero_grad()
            loop.show(loss)
            if loop.logs:
                terms = {"loss": loss, "reconstruction": reconstruction, "quantizer": result.loss}
                loop.log({name: term.item() for name, term in terms.items()}
                         | {"skipped": updater.take_skipped()})  # fmt: skip
    return loop.finish(ema.module)


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """What Muon takes in a transformer: the matrices of its repeated blocks."""
    found: dict[int, nn.Parameter] = {}
    for blocks in model.modules():
        if isinstance(blocks, nn.ModuleList | nn.Sequential):
            for block in blocks:
                if not isinstance(block, nn.Linear | nn.Embedding | nn.Conv2d):
                    found |= {id(p): p for p in block.parameters() if p.ndim == 2}
    return [p for p in found.values() if p.requires_grad]
