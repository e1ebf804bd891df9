"""Stage 2: trains the transformer on token maps that a tokenizer has written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data import check_batch_size, fitted
from ..fast.quicken import quicken
from ..model.scales import ScaleSchedule
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..runtime import distributed
from ..runtime.files import file_checksum
from ..runtime.machine import autocast, device, precision, to_device
from ..runtime.pretrained import resolve_folder
from .checkpoint import consolidate
from .configs import VARTraining
from .loop import Loop, uniform
from .optim import Updater, averaged, blockwise, make_optimizers, set_rates
from .run_folder import check_folder
from .token_sets import TokenSet, token_batches, token_set

UNSHAPED = ("drop_path", "label_dropout", "init_gamma")
"""Options of a model that say how it is trained, and not what weights it has."""


def train(
    config: VARTraining,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> Path:
    """Trains a VAR; leaves config.json, model.safetensors, log.csv, run.json, tokens/ and state/.

    Under torchrun all processes call this, and each works on its share of every batch.

    Args:
        config: what to train, on what, for how long. The transformer's schedule, vocabulary and
            code length follow the tokenizer, its classes the data.
        out, overwrite, resume: as in `train_tokenizer.train`.
        tokenizer: a shipped name or folder; None takes the configuration's.

    Returns:
        The folder, which `VAR.from_pretrained` loads (averaged weights).

    Raises:
        ValueError: on a folder in use, an unknown tokenizer or data, or images that do not fit.
    """
    distributed.start()
    tok, images, config = prepare(config, out, tokenizer or config.tokenizer, overwrite, resume)
    torch.manual_seed(config.seed)
    model = quicken(initial_model(config).to(device()), in_halves=not config.compile)
    ema = averaged(model, config.ema)
    blockwise(model.blocks, recompute=config.recompute, compile=config.compile)
    network = spread(model, ema, config.parallel)
    optimizers = make_optimizers(model, config.lr, config.weight_decay, config.muon_lr)
    updater = Updater(model, optimizers.values(), config.clip)
    total = max(1, config.images // config.batch_size)
    logged = range(config.log_every, total + 1, config.log_every)
    state = {"model": model, "ema": ema, **optimizers}
    loop = Loop("var", config, Path(out), state, total=total, log_at=logged, resume=resume,
                clear=overwrite)  # fmt: skip
    maps, held_out = token_maps(config, tok, images, loop.out)
    own = distributed.share(config.batch_size)
    stream = token_batches(maps, config.batch_size, config.seed, loop.start, own)
    with loop:
        for step in loop:
            lr = set_rates(optimizers.values(), config, step, total)
            chances = uniform(config.seed, step, config.batch_size, 1 + 2 * config.model.depth)
            batch = [to_device(t) for t in (*next(stream), chances[own])]
            loss, terms, logits = backward(network, tok, batch, config.accumulate, loop.logs)
            updater.step(loss)
            ema.update_parameters(model)
            loop.show(loss)
            if loop.logs:
                loop.symptoms.of_transformer(loop.done, terms["loss"], logits, tok.vocab_size)
                held = held_out_terms(ema.module, tok, held_out, config.held_out)
                held = {f"val_{name}": value for name, value in held.items()}
                loop.log({"lr": lr, **terms, **held, "skipped": updater.take_skipped()})
    if network is model and distributed.world() > 1:  # FSDP2: no process holds all weights
        return consolidate(loop.out, config.model)
    return loop.finish(ema.module)


def initial_model(config: VARTraining) -> VAR:
    """Random weights, or those that the configuration names; ValueError when these do not fit."""
    var = VAR(config.model)
    if config.weights:
        given = VAR.from_pretrained(config.weights)
        theirs, ours = dataclasses.asdict(given.config), dataclasses.asdict(config.model)
        wrong = [n for n in ours if ours[n] != theirs[n] and n not in UNSHAPED]
        if wrong:
            found, wanted = (", ".join(f"{n}={of[n]}" for n in wrong) for of in (theirs, ours))
            raise ValueError(
                f"weights is {config.weights!r}, a model with {found}, expected {wanted}: "
                f"give its own --tokenizer, --data and --model options"
            )
        var.load_state_dict(given.state_dict())
    return var


def backward(
    network: nn.Module, tok: MultiScaleVQVAE, batch: Sequence[Tensor], parts: int, measure: bool
) -> tuple[Tensor, dict[str, float], Tensor]:
    """Adds up the gradients of the loss over the parts of a batch: the transformer's whole lesson.

    Args:
        batch: tokens (B, L) of the true images, their labels (B,), and numbers in [0, 1)
            (B, 1 + 2 depth) that decide which labels are dropped and which branches are skipped.
        parts: into which the batch is cut, to save memory.
        measure: also compute `loss_terms`.

    Returns:
        The loss, a scalar; what `measure` asks for; the last part's logits (b, L, V).
    """
    loss, terms = torch.zeros((), device=batch[0].device), []
    pieces = list(zip(*(t.chunk(parts) for t in batch)))
    for i, (tokens, labels, chances) in enumerate(pieces, 1):
        inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(tokens))
        with distributed.keep_gradients(network, i < len(pieces)):
            with autocast():
                logits = network(labels, inputs, chances)
            # -1/L sum_k log p(r_k | r_1, ..., r_{k-1}), averaged over the batch
            piece = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
            piece = piece * (len(tokens) / len(batch[0]))
            piece.backward()
        loss = loss + piece.detach()
        if measure:
            terms.append(loss_terms(logits.detach(), tokens, tok.schedule))
    names = ("loss", "loss_last", "accuracy", "accuracy_last")
    return loss, means(terms, names) if measure else {}, logits.detach()


def loss_terms(logits: Tensor, targets: Tensor, schedule: ScaleSchedule) -> dict[str, Tensor]:
    """Cross-entropy and token accuracy of logits (B, L, V) and targets (B, L), each (B,).

    Means for every image: over all tokens, over the last scale, and over each scale.
    """
    each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    right = (logits.argmax(2) == targets).float()
    last = schedule.slices[-1]
    return {
        "loss": each.mean(1),
        "loss_last": each[:, last].mean(1),
        "accuracy": right.mean(1),
        "accuracy_last": right[:, last].mean(1),
        **{f"loss_{k}": each[:, part].mean(1) for k, part in enumerate(schedule.slices, 1)},
    }


def means(parts: Sequence[dict[str, Tensor]], names: Sequence[str]) -> dict[str, float]:
    """The means of some `loss_terms` over the parts of a batch and over the processes."""
    whole = torch.stack([torch.cat([part[name] for part in parts]).mean() for name in names])
    return dict(zip(names, distributed.mean(whole).tolist()))


@torch.no_grad()
def held_out_terms(
    model: VAR, tok: MultiScaleVQVAE, data: TokenSet, count: int
) -> dict[str, float]:
    """`loss_terms` on the first `count` images of a held-out set, in evaluation mode."""
    model.eval()
    count, processes = min(count, len(data.labels)), distributed.world()
    batch_size = max(1, min(250, 2**17 // model.schedule.num_tokens))
    # Every process makes as many passes; what is more than `count` weighs nothing.
    rows = torch.arange(-(-count // processes) * processes)[distributed.rank() :: processes]
    sums = torch.zeros((), device=device())
    for part in rows.split(batch_size):
        weight = to_device((part < count).float())
        part = part.clamp(max=count - 1)
        targets, labels = to_device(data.rows(part)), to_device(data.labels[part])
        inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(targets))
        with autocast():
            logits = model(labels, inputs)
        terms = loss_terms(logits, targets, model.schedule)
        sums = sums + torch.stack(list(terms.values())) @ weight
    return dict(zip(terms, (distributed.total(sums) / count).tolist()))


def prepare(
    config: VARTraining, out: str | Path, tokenizer: str | Path, overwrite: bool, resume: bool
) -> tuple[MultiScaleVQVAE, dict[str, Dataset], VARTraining]:
    """The tokenizer, the images by split, and the configuration with the shape that follows.

    All is checked to fit. The configuration names the tokenizer by its checksum, so that a run
    never goes on with another one.
    """
    with distributed.together():
        source = resolve_folder(tokenizer, MultiScaleVQVAE.kind)
        tok = MultiScaleVQVAE.from_pretrained(source).to(device())
        images = {
            split: fitted(config.data, split, tok.image_size, tok.config.image_channels)
            for split in ("train", "test")
        }
        tok.check_images(images["train"][0][0][None])
        check_batch_size(config.batch_size, len(images["train"]))
        distributed.share(config.batch_size)
        if config.muon_lr and config.parallel == "fsdp" and distributed.world() > 1:
            raise ValueError(
                f"muon_lr is {config.muon_lr}, but Muon needs whole matrices and --parallel fsdp "
                f"cuts them: take --muon-lr 0 or --parallel ddp"
            )
        shape = dataclasses.replace(
            config.model, sizes=tok.config.sizes, vocab_size=tok.vocab_size,
            code_channels=tok.config.code_channels, num_classes=len(images["train"].classes),
        )  # fmt: skip
        checksum = file_checksum(source / "model.safetensors")
        config = dataclasses.replace(config, tokenizer=checksum, model=shape)
        check_folder(out, config, overwrite=overwrite, resume=resume)
    return tok, images, config


def spread(model: VAR, ema: nn.Module, parallel: str) -> nn.Module:
    """Shares a model and its average with the other processes; returns what to train."""
    if parallel == "ddp" or distributed.world() == 1:
        return distributed.replicate(model)
    for part in (model, ema.module):
        distributed.shard(part, (*part.blocks, part.modulation), precision())
    return model


def token_maps(
    config: VARTraining, tok: MultiScaleVQVAE, images: dict[str, Dataset], out: Path
) -> list[TokenSet]:
    """The token maps of both splits, written into the run's folder once; mirrored ones to train."""
    return [
        token_set(tok, config.tokenizer, images[split], out / "tokens", split,
                  flip=config.flip and split == "train", workers=config.workers)
        for split in ("train", "test")
    ]  # fmt: skip
