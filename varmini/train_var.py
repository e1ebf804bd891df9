"""Stage 2: trains the transformer on token maps that a tokenizer has written once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checkpoint, engine
from .data import ImageSet, check_batch_size, fitted, in_order
from .lazy import LazyImages
from .presets import VARTraining
from .pretrained import file_checksum, resolve_folder, write_atomic
from .scales import ScaleSchedule
from .tokenizer import MultiScaleVQVAE
from .transformer import VAR


@dataclass
class TokenSet:
    """The token maps of a data set, as the transformer reads them."""

    tokens: Tensor
    """(M, N, L) int32: M = 2 with the mirror images, else 1."""
    labels: Tensor
    """(N,) int64."""


def token_set(
    tok: MultiScaleVQVAE,
    checksum: str,
    dataset: ImageSet | LazyImages,
    path: Path,
    *,
    flip: bool,
    workers: int = 0,
    batch_size: int = 250,
) -> TokenSet:
    """Encodes a data set once, and again only when tokenizer, data set or precision change.

    Args:
        checksum: of the tokenizer's weights.
        path: the file that keeps the token maps; its key tells what they were made of.
        flip: also encode the mirror images.
        workers: processes that decode images.

    Raises:
        ValueError: when the images do not fit the tokenizer.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    key = {"tokenizer": checksum, "data": dataset.name, "images": str(len(dataset))}
    key |= {"flip": str(flip), "precision": str(engine.precision())}
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                if file.metadata() == key:
                    return TokenSet(file.get_tensor("tokens"), file.get_tensor("labels"))
        except SafetensorError:
            pass  # half a file from a full disk: encode again
    rows, labels = [], []
    stream = in_order(dataset, batch_size, workers)
    for _ in engine.progress(range(0, len(dataset), batch_size), path.stem):
        images, part = next(stream)
        images = images.to(engine.device())
        kinds = [images, images.flip(3)] if flip else [images]
        with engine.autocast():
            rows.append(torch.stack([tok.schedule.flatten(tok.encode(x)) for x in kinds]).cpu())
        labels.append(part)
    result = TokenSet(torch.cat(rows, dim=1).to(torch.int32), torch.cat(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save({"tokens": result.tokens, "labels": result.labels}, metadata=key))
    return result


def token_batches(
    data: TokenSet,
    batch_size: int,
    seed: int,
    start_step: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens (B, L) int64, labels (B,)), in an order that seed and step alone decide.

    Raises:
        ValueError: when a batch is larger than the set.
    """
    count = len(data.labels)
    check_batch_size(batch_size, count)
    per_epoch, step = count // batch_size, start_step
    while True:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step // per_epoch)
        order = torch.randperm(count, generator=generator)
        kind = torch.randint(len(data.tokens), (count,), generator=generator)
        for i in range(step % per_epoch, per_epoch):
            rows = order[i * batch_size : (i + 1) * batch_size]
            yield data.tokens[kind[rows], rows].long(), data.labels[rows]
            step += 1


def loss_terms(logits: Tensor, targets: Tensor, schedule: ScaleSchedule) -> dict[str, float]:
    """Cross-entropy and token accuracy: over all tokens, over the last scale, and a scale.

    Args:
        logits: (B, L, V).
        targets: (B, L).
    """
    each = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    right = (logits.argmax(2) == targets).float()
    last = schedule.slices[-1]
    return {
        "loss": each.mean().item(),
        "loss_last": each[:, last].mean().item(),
        "accuracy": right.mean().item(),
        "accuracy_last": right[:, last].mean().item(),
        **{f"loss_{k}": each[:, part].mean().item() for k, part in enumerate(schedule.slices, 1)},
    }


@torch.no_grad()
def held_out_terms(
    model: VAR, tok: MultiScaleVQVAE, data: TokenSet, count: int, batch_size: int = 250
) -> dict[str, float]:
    """`loss_terms` on the first `count` images of a held-out set, in evaluation mode."""
    model.eval()
    device, sums, seen = engine.device(), {}, 0
    for rows in torch.arange(min(count, len(data.labels))).split(batch_size):
        targets = data.tokens[0, rows].long().to(device)
        inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(targets))
        with engine.autocast():
            logits = model(data.labels[rows].to(device), inputs)
        for name, value in loss_terms(logits, targets, model.schedule).items():
            sums[name] = sums.get(name, 0.0) + value * len(rows)
        seen += len(rows)
    return {name: total / seen for name, total in sums.items()}


def make_optimizers(model: VAR, config: VARTraining) -> dict[str, torch.optim.Optimizer]:
    """AdamW for everything (the paper's), or all but the blocks' matrices, which Muon then takes.

    Muon steps along the momentum with all its singular values set to about 1 (Jordan et al. 2024).
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2] if config.muon_lr else []
    groups = engine.decay_groups(model, config.weight_decay, apart=matrices)
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
    if not matrices:
        return {"optimizer": adamw}
    group = {"params": matrices, "peak": config.muon_lr}
    muon = torch.optim.Muon([group], lr=config.muon_lr, weight_decay=config.weight_decay)
    return {"optimizer": adamw, "muon": muon}


def train(
    config: VARTraining,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> Path:
    """Trains a VAR; leaves config.json, model.safetensors, log.csv, run.json, tokens/ and state/.

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
        ValueError: on a folder in use, an unknown tokenizer or data, or images that do not fit.
    """
    device = engine.device()
    source = resolve_folder(tokenizer or config.tokenizer, MultiScaleVQVAE.kind)
    tok = MultiScaleVQVAE.from_pretrained(source).to(device)
    config = dataclasses.replace(config, tokenizer=file_checksum(source / "model.safetensors"))
    out = engine.check_folder(out, config, overwrite=overwrite, resume=resume)
    images = {
        split: fitted(config.data, split, tok.image_size, tok.config.image_channels)
        for split in ("train", "test")
    }
    tok.check_images(images["train"][0][0][None])
    check_batch_size(config.batch_size, len(images["train"]))
    torch.manual_seed(config.seed)
    model = VAR(
        dataclasses.replace(
            config.model,
            sizes=tok.config.sizes,
            vocab_size=tok.vocab_size,
            code_channels=tok.config.code_channels,
            num_classes=len(images["train"].classes),
        )
    ).to(device)
    optimizers = make_optimizers(model, config)
    ema = engine.averaged(model, config.ema)
    updater = engine.Updater(model, list(optimizers.values()), config.clip)
    parts = {"model": model, "ema": ema, **optimizers}
    out = engine.make_folder(out, clear=overwrite and not resume)
    start = checkpoint.restore(out / "state", parts) if resume else 0
    run = engine.Run(out, config, start)
    train_set, held_out = (
        token_set(
            tok,
            config.tokenizer,
            images[split],
            out / "tokens" / f"tokens of {split}.safetensors",
            flip=config.flip and split == "train",
            workers=config.workers,
        )
        for split in ("train", "test")
    )
    total = max(1, config.images // config.batch_size)
    if config.compile and engine.can_compile():
        for block in model.blocks:
            block.compile()
    stream = token_batches(train_set, config.batch_size, config.seed, start)
    bar = engine.progress(range(start, total), "var", start)
    with engine.StopSignal() as stop:
        for step in bar:
            model.train()
            share = engine.learning_rate_share(
                step, total, config.warmup, config.decay, config.final
            )
            for group in (g for o in optimizers.values() for g in o.param_groups):
                group["lr"] = group.get("peak", config.lr) * share
            tokens, labels = (t.to(device, non_blocking=True) for t in next(stream))
            for part in torch.arange(len(labels), device=device).chunk(config.accumulate):
                inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(tokens[part]))
                with engine.autocast():
                    logits = model(labels[part], inputs)
                # -1/L sum_k log p(r_k | r_1, ..., r_{k-1}), averaged over the batch
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[part].flatten())
                (loss * len(part) / len(labels)).backward()
            updater.step()
            ema.update_parameters(model)

            done = step + 1
            if done % 10 == 0:
                bar.set_postfix(
                    loss=f"{loss.item():.4f}",
                    images_s=f"{config.batch_size * (bar.format_dict['rate'] or 0):.0f}",
                )
            if done % config.log_every == 0 or done == total:
                terms = loss_terms(logits.detach(), tokens[part], model.schedule)
                held = held_out_terms(ema.module, tok, held_out, config.held_out)
                run.log(
                    done,
                    done * config.batch_size,
                    {
                        "lr": config.lr * share,
                        **{k: terms[k] for k in ("loss", "loss_last", "accuracy", "accuracy_last")},
                        **{f"val_{k}": v for k, v in held.items()},
                    },
                )
            if done % config.checkpoint_every == 0 or done == total or stop.received:
                checkpoint.save(out / "state", done, parts)
            stop.exit_if_received(out)
    return ema.module.save_pretrained(out)
