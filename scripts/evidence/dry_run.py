"""Dry run of the ImageNet presets: real shapes without memory, and one true step of the smallest.

    VARMINI_PRECISION=bfloat16 python scripts/evidence/dry_run.py --out results/dry_run.csv

Every preset runs forward, loss and backward of both stages on the meta device, with the batch of
one GPU of eight. imagenet256-d16 then runs on this machine, with random weights: encode an image,
one training step on it, draw an image. Peak memory is the process's, by the kernel's count.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from varmini import VAR, MultiScaleVQVAE, sample
from varmini.runtime.machine import provenance
from varmini.runtime.precision import autocast, precision
from varmini.runtime.tables import write_rows
from varmini.training.flops import exact_parameters
from varmini.training.planner import var_memory
from varmini.training.presets import PRESETS, Preset

GPUS = 8
STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The most memory that this process held since `forget_peak`; Linux only."""
    line = next(row for row in STATUS.read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Sets the kernel's peak back to what is held now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def on_meta(name: str, run: Preset) -> Iterator[dict[str, Any]]:
    """Forward, loss and backward of both stages on the meta device."""
    # Autocast does not know the meta device; without it all types are float32.
    without = mock.patch("torch.autocast", lambda *_, **__: contextlib.nullcontext())
    with torch.device("meta"), without:
        tok, var = MultiScaleVQVAE(run.tokenizer.model).train(), VAR(run.var.model).train()
        for stage, config, model in (("tokenizer", run.tokenizer, tok), ("var", run.var, var)):
            count = config.batch_size // GPUS
            if stage == "tokenizer":
                images = torch.empty(count, 3, *tok.image_size)
                result = tok(images)
                output, loss = result.images, F.mse_loss(result.images, images) + result.loss
            else:
                maps = [torch.empty(count, h, w, dtype=torch.long) for h, w in tok.schedule.grids]
                output = var(
                    torch.empty(count, dtype=torch.long), tok.quantizer.teacher_inputs(maps)
                )
                targets = tok.schedule.flatten(maps)
                loss = F.cross_entropy(output.flatten(0, 1), targets.flatten())
            loss.backward()
            missing = [n for n, p in model.named_parameters() if p.grad is None]
            if missing or loss.shape != ():
                raise SystemExit(f"{name}, {stage}: no gradient for {missing or 'a scalar loss'}")
            yield {
                "preset": name,
                "what": f"{stage}: forward, loss, backward",
                "device": "meta",
                "images": count,
                "output": "x".join(map(str, output.shape)),
                "parameters": exact_parameters(model.config),
                "precision": "float32",
            }


def on_cpu(name: str, run: Preset) -> Iterator[dict[str, Any]]:
    """Encodes an image, takes one training step on it, draws an image."""
    torch.manual_seed(0)
    tok = MultiScaleVQVAE(run.tokenizer.model).eval().requires_grad_(False)
    var = VAR(run.var.model)
    images, labels = torch.rand(1, 3, *tok.image_size) * 2 - 1, torch.tensor([207])
    weights = 4 * (exact_parameters(tok.config) + exact_parameters(var.config))
    bf16 = precision() is torch.bfloat16
    step = var_memory(var.config, 1, bf16=bf16, cpu=True)
    parts = ("gradients", "bf16 copies", "activations", "logits")
    expected = weights + sum(step[part] for part in parts)

    def measured(what: str, expected: float | None, work: Callable[[], dict]) -> dict[str, Any]:
        forget_peak()
        begin = time.process_time()
        with autocast():
            found = work()
        seconds = time.process_time() - begin
        row = {"preset": name, "what": what, "device": "cpu", "images": 1, **found}
        row |= {"cpu_seconds": f"{seconds:.1f}", "peak_gb": f"{peak_bytes() / 1e9:.2f}"}
        return row | ({"planned_gb": f"{expected / 1e9:.2f}"} if expected else {})

    def encode() -> dict:
        with torch.no_grad():
            maps.extend(tok.encode(images))
        return {"output": "+".join(f"{m.shape[1]}x{m.shape[2]}" for m in maps)}

    def train() -> dict:
        var.train()
        logits = var(labels, tok.quantizer.teacher_inputs(maps))
        targets = tok.schedule.flatten(maps)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in var.parameters()])
        if not (torch.isfinite(loss) and torch.isfinite(norm) and norm > 0):
            raise SystemExit(f"{name}: loss {loss}, gradient norm {norm}")
        var.zero_grad(set_to_none=True)
        shape = "x".join(map(str, logits.shape))
        return {"output": shape, "loss": f"{loss:.4f}", "parameters": exact_parameters(var.config)}

    def draw() -> dict:
        var.eval()
        drawn = sample(var, tok, [207], cfg=1.5, seed=0)
        if not torch.isfinite(drawn).all() or drawn.shape != images.shape:
            raise SystemExit(f"{name}: sampled {tuple(drawn.shape)}, finite expected")
        return {"output": "x".join(map(str, drawn.shape))}

    maps: list[torch.Tensor] = []
    yield measured("tokenizer: encode an image", None, encode)
    yield measured("var: forward, loss, backward", expected, train)
    yield measured("var and tokenizer: draw an image", None, draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/dry_run.csv"))
    parser.add_argument("--meta-only", action="store_true", help="leave out the true step on a CPU")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    presets = {n: p for n, p in PRESETS.items() if n.startswith("imagenet")}
    for name, run in presets.items():
        rows += on_meta(name, run)
    if not options.meta_only:
        rows += on_cpu("imagenet256-d16", presets["imagenet256-d16"])
    source = provenance()
    columns = ["preset", "what", "device", "images", "output", "loss", "parameters", "cpu_seconds"]
    columns += ["peak_gb", "planned_gb", *source]
    write_rows(options.out, [dict.fromkeys(columns, "") | source | row for row in rows])
    print(f"wrote {options.out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
