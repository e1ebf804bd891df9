"""Stage 2: trains the transformer on token maps that a tokenizer has written once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import checkpoint, engine
from .data import in_order, load_images
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
    classes: tuple[str, ...]
    """Class names."""


def token_set(
    tok: MultiScaleVQVAE,
    checksum: str,
    data: str,
    split: str,
    flip: bool,
    folder: Path,
    workers: int = 0,
    batch_size: int = 250,
) -> TokenSet:
    """Encodes a data set once, and again only when tokenizer, data or precision change.

    Args:
        checksum: of the tokenizer's weights; it names the file together with data and split.
        folder: where the token maps are kept.
        workers: processes that decode images.

    Raises:
        ValueError: on unknown data, or images that do not fit the tokenizer.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save

    dtype = str(engine.precision()).split(".")[1]
    key = {
        "tokenizer": checksum,
        "data": data,
        "split": split,
        "flip": str(flip),
        "precision": dtype,
    }
    path = folder / f"{split}{'-flip' if flip else ''}.safetensors"
    if path.exists():
        try:
            with safe_open(path, "pt") as file:
                found = dict(file.metadata() or {})
                classes = tuple(json.loads(found.pop("classes", "[]")))
                if found == key:
                    return TokenSet(file.get_tensor("tokens"), file.get_tensor("labels"), classes)
        except SafetensorError:
            pass  # half a file from a full disk: encode again
    dataset = load_images(data, split)
    rows, labels = [], []
    stream = in_order(dataset, batch_size, workers)
    for _ in engine.progress(range(0, len(dataset), batch_size), f"token maps, {split}"):
        images, part = next(stream)
        kinds = [images, images.flip(3)] if flip else [images]
        with engine.autocast():
            rows.append(torch.stack([tok.schedule.flatten(tok.encode(x)) for x in kinds]))
        labels.append(part)
    tokens = torch.cat(rows, dim=1).to(torch.int32)
    result = TokenSet(tokens, torch.cat(labels), tuple(dataset.classes))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(
        path,
        save(
            {"tokens": result.tokens, "labels": result.labels},
            metadata=key | {"classes": json.dumps(result.classes)},
        ),
    )
    return result


def token_batches(
    data: TokenSet,
    batch_size: int,
    seed: int,
    start_step: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (tokens (B, L) int64, labels (B,)); the order is a function of seed and step alone.

    Raises:
        ValueError: when a batch is larger than the set.
    """
    count = len(data.labels)
    if batch_size > count:
        raise ValueError(f"batch_size is {batch_size}, but the set has {count} images: take fewer")
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
    logits, targets = [], data.tokens[0, :count].long()
    for rows in torch.arange(len(targets)).split(batch_size):
        inputs = tok.quantizer.teacher_inputs(tok.schedule.unflatten(targets[rows]))
        with engine.autocast():
            logits.append(model(data.labels[rows], inputs))
    return loss_terms(torch.cat(logits), targets, model.schedule)


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
    source = resolve_folder(tokenizer or config.tokenizer, MultiScaleVQVAE.kind)
    tok = MultiScaleVQVAE.from_pretrained(source)
    out = engine.prepare_folder(out, overwrite=overwrite, resume=resume)
    torch.manual_seed(config.seed)
    checksum = file_checksum(source / "model.safetensors")
    train_set, held_out = (
        token_set(tok, checksum, config.data, split, flip, out / "tokens", config.workers)
        for split, flip in (("train", config.flip), ("test", False))
    )
    model = VAR(
        dataclasses.replace(
            config.model,
            sizes=tok.config.sizes,
            vocab_size=tok.vocab_size,
            code_channels=tok.config.code_channels,
            num_classes=len(train_set.classes),
        )
    )
    optimizer = torch.optim.AdamW(
        engine.decay_groups(model, config.weight_decay), lr=config.lr, betas=(0.9, 0.95), fused=True
    )
    ema = engine.averaged(model, config.ema)
    updater = engine.Updater(model, optimizer, config.clip)
    parts = {"model": model, "ema": ema, "optimizer": optimizer}
    start = checkpoint.restore(out / "state", parts) if resume else 0
    total = max(1, config.images // config.batch_size)
    if config.compile and engine.can_compile():
        for block in model.blocks:
            block.compile()
    run = engine.Run(out, config, start)
    stream = token_batches(train_set, config.batch_size, config.seed, start)
    bar = engine.progress(range(start, total), "var", start)
    with engine.StopSignal() as stop:
        for step in bar:
            model.train()
            share = engine.learning_rate_share(
                step, total, config.warmup, config.decay, config.final
            )
            for group in optimizer.param_groups:
                group["lr"] = config.lr * share
            tokens, labels = next(stream)
            for part in torch.arange(len(labels)).chunk(config.accumulate):
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
