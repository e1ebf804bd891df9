"""Stage 2: trains the transformer on token maps that a tokenizer has written once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import check_batch_size, fitted
from ..model.scales import ScaleSchedule
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..runtime import distributed
from ..runtime.files import file_checksum
from ..runtime.pretrained import resolve_folder
from . import checkpoint, engine
from .configs import VARTraining
from .consolidate import consolidate
from .planner import check_batch, var_memory
from .symptoms import Symptoms
from .token_sets import TokenSet, token_batches, token_set

FOLLOWS = ("model.sizes", "model.vocab_size", "model.code_channels", "model.num_classes")
"""Settings that follow the tokenizer and the data, whatever a preset says."""


def loss_terms(logits: Tensor, targets: Tensor, schedule: ScaleSchedule) -> dict[str, Tensor]:
    """Cross-entropy and token accuracy: over all tokens, over the last scale, and a scale.

    Args:
        logits: (B, L, V).
        targets: (B, L).

    Returns:
        (B,) each: a mean for every image.
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
    sums = torch.zeros((), device=engine.device())
    for part in rows.split(batch_size):
        weight = engine.to_device((part < count).float())
        part = part.clamp(max=count - 1)
        targets, labels = engine.to_device(data.rows(part)), engine.to_device(data.labels[part])
        inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(targets))
        with engine.autocast():
            logits = model(labels, inputs)
        terms = loss_terms(logits, targets, model.schedule)
        sums = sums + torch.stack(list(terms.values())) @ weight
    return dict(zip(terms, (distributed.total(sums) / count).tolist()))


def averages(parts: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """The means of `loss_terms` over the parts of a batch and over the processes."""
    means = torch.stack([torch.cat([part[name] for part in parts]).mean() for name in parts[0]])
    return dict(zip(parts[0], distributed.mean(means).tolist()))


def spread(model: VAR, ema: nn.Module, parallel: str) -> nn.Module:
    """Shares a model and its average with the other processes; returns what to train."""
    if parallel == "ddp" or distributed.world() == 1:
        return distributed.replicate(model)
    for part in (model, ema.module):
        distributed.shard(part, (*part.blocks, part.modulation), engine.precision())
    return model


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
        out: the run's folder.
        tokenizer: a shipped name or folder; None takes the configuration's.
        overwrite: replace an earlier run in `out`.
        resume: go on exactly where the run in `out` stopped.

    Returns:
        The folder, which `VAR.from_pretrained` loads (averaged weights).

    Raises:
        ValueError: on a folder in use, an unknown tokenizer or data, images that do not fit, or a
            batch that memory does not hold.
    """
    distributed.start()
    device = engine.device()
    with distributed.together():
        source = resolve_folder(tokenizer or config.tokenizer, MultiScaleVQVAE.kind)
        tok = MultiScaleVQVAE.from_pretrained(source).to(device)
        config = dataclasses.replace(config, tokenizer=file_checksum(source / "model.safetensors"))
        out = engine.check_folder(out, config, overwrite=overwrite, resume=resume, follows=FOLLOWS)
        images = {
            split: fitted(config.data, split, tok.image_size, tok.config.image_channels)
            for split in ("train", "test")
        }
        tok.check_images(images["train"][0][0][None])
        check_batch_size(config.batch_size, len(images["train"]))
        own = distributed.share(config.batch_size)
    shape = dataclasses.replace(
        config.model,
        sizes=tok.config.sizes,
        vocab_size=tok.vocab_size,
        code_channels=tok.config.code_channels,
        num_classes=len(images["train"].classes),
    )
    config = dataclasses.replace(config, model=shape)
    need = functools.partial(
        var_memory, shape, bf16=engine.precision() is torch.bfloat16,
        recompute=config.recompute, cpu=True,
    )  # fmt: skip
    with distributed.together():
        check_batch(need, config.batch_size // distributed.world(), config.accumulate)
    torch.manual_seed(config.seed)
    model = VAR(config.model).to(device)
    ema = engine.averaged(model, config.ema)
    engine.blockwise(model.blocks, recompute=config.recompute, compile=config.compile)
    network = spread(model, ema, config.parallel)
    if config.muon_lr and network is model and distributed.world() > 1:
        raise ValueError(
            f"muon_lr is {config.muon_lr}, but Muon needs whole matrices and --parallel fsdp cuts "
            f"them: take --muon-lr 0 or --parallel ddp"
        )
    optimizers = engine.make_optimizers(model, config.lr, config.weight_decay, config.muon_lr)
    updater = engine.Updater(model, list(optimizers.values()), config.clip)
    symptoms = Symptoms(config.lr)
    parts = {"model": model, "ema": ema, **optimizers}
    out = engine.make_folder(out, clear=overwrite and not resume)
    start = checkpoint.restore(out / "state", parts) if resume else 0
    run = engine.Run(out, config, start, "var")
    train_set, held_out = (
        token_set(
            tok,
            config.tokenizer,
            images[split],
            out / "tokens",
            split,
            flip=config.flip and split == "train",
            workers=config.workers,
        )
        for split in ("train", "test")
    )
    total = max(1, config.images // config.batch_size)
    stream = token_batches(train_set, config.batch_size, config.seed, start, own)
    bar = engine.progress(range(start, total), "var", start)
    with engine.StopSignal() as stop:
        for step in bar:
            model.train()
            share = engine.learning_rate_share(
                step, total, config.warmup, config.decay, config.final
            )
            decay = engine.weight_decay_at(
                step, total, config.weight_decay, config.final_weight_decay
            )
            for group in (g for o in optimizers.values() for g in o.param_groups):
                group["lr"] = group.get("peak", config.lr) * share
                if group["weight_decay"]:
                    group["weight_decay"] = decay
            chances = engine.uniform(config.seed, step, config.batch_size, 1 + 2 * shape.depth)[own]
            batch = [engine.to_device(t) for t in (*next(stream), chances)]
            pieces = list(zip(*(t.chunk(config.accumulate) for t in batch)))
            done, loss, terms = step + 1, 0.0, []
            logged = done % config.log_every == 0 or done == total
            for i, (tokens, labels, chances) in enumerate(pieces, 1):
                inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(tokens))
                with distributed.keep_gradients(network, i < len(pieces)):
                    with engine.autocast():
                        logits = network(labels, inputs, chances)
                    # -1/L sum_k log p(r_k | r_1, ..., r_{k-1}), averaged over the batch
                    piece = F.cross_entropy(logits.flatten(0, 1), tokens.flatten())
                    piece = piece * (len(tokens) / len(batch[0]))
                    piece.backward()
                loss = loss + piece.detach()
                if logged:
                    terms.append(loss_terms(logits.detach(), tokens, model.schedule))
            updater.step(loss)
            ema.update_parameters(model)

            if done % 10 == 0:
                bar.set_postfix(
                    loss=f"{distributed.mean(loss).item():.4f}",
                    images_s=f"{config.batch_size * (bar.format_dict['rate'] or 0):.0f}",
                )
            if logged:
                terms, skipped = averages(terms), updater.take_skipped()
                symptoms.skipped(done, skipped)
                symptoms.of_transformer(done, terms["loss"], logits.detach(), tok.vocab_size)
                held = held_out_terms(ema.module, tok, held_out, config.held_out)
                run.log(
                    done,
                    done * config.batch_size,
                    {
                        "lr": config.lr * share,
                        **{k: terms[k] for k in ("loss", "loss_last", "accuracy", "accuracy_last")},
                        **{f"val_{k}": v for k, v in held.items()},
                        "skipped": skipped,
                    },
                )
            stop.agree(done)
            if done % config.checkpoint_every == 0 or done == total or stop.received:
                checkpoint.save(out / "state", done, parts)
            stop.exit_if_received(out)
    if network is model and distributed.world() > 1:  # FSDP2: no process holds all weights
        return consolidate(out)
    if distributed.is_main():
        ema.module.save_pretrained(out)
    distributed.wait()
    return out
