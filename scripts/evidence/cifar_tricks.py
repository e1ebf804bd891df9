"""What helps per FLOP? Short runs of CIFAR-10's transformer with one change each, three seeds.

    python scripts/evidence/cifar_tricks.py --out runs/tricks           # goes on where it stopped
    python scripts/evidence/cifar_tricks.py --out runs/tricks --cost    # seconds beside the base

The base is size d = 3 of the sweep over sizes (depth 3, width 72, Muon beside AdamW; the preset
`cifar10` is its d = 8) on the shipped tokenizer's codes, with batches of 16 since the runs are
short. All variants of a seed see the same images in the same order and start from the same weights
where shapes allow. A run is one row, written when it ends; two processes may share the table, each
with its own `--seeds` or `--only`.

Losses are held-out cross-entropies in nats a token, of the averaged weights: over all tokens, over
those of the last scale, and over all tokens with a damaged input, as two of the variants train.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor
from tricks import SOAP, VARIANTS, Variant, flipped, moved

from varmini import VAR, MultiScaleVQVAE, quicken
from varmini.data import fitted
from varmini.data.batching import in_order
from varmini.data.sets import spread
from varmini.experiments.scaling.sweep import Sweep
from varmini.model.transformer import VARConfig
from varmini.runtime.files import write_atomic
from varmini.runtime.machine import autocast
from varmini.runtime.tables import RESULTS, origin, rows_of, write_rows
from varmini.training.flops import var_training_flops
from varmini.training.optim import Updater, averaged, make_optimizers, set_rates
from varmini.training.token_sets import TokenSet
from varmini.training.train_var import held_out_terms

BASE = Sweep()


@dataclass
class Bed:
    """Codes and features of training images, as they are and mirrored, and of test images."""

    tok: MultiScaleVQVAE
    features: Tensor  # (2, N, C, H, W)
    tokens: Tensor  # (2, N, L)
    labels: Tensor  # (N,)
    test: tuple[Tensor, Tensor, Tensor]  # tokens, features, labels


def make_bed(file: Path, count: int, held_out: int) -> Bed:
    """Encodes evenly spread images of CIFAR-10, once."""
    tok = MultiScaleVQVAE.from_pretrained("cifar10").eval()
    if not file.exists():
        kept = {}
        for split, n in (("train", count), ("test", held_out)):
            images = fitted("cifar10", split, tok.image_size, 3)
            rows = spread(len(images), n)
            images.images, images.labels = images.images[rows], images.labels[rows]
            found = []
            for part, labels in in_order(images, 100):
                with torch.no_grad(), autocast():
                    both = [tok.features(x).float() for x in (part, part.flip(3))]
                codes = [tok.schedule.flatten(tok.quantizer.encode(f)) for f in both]
                found.append((torch.stack(both), torch.stack(codes), labels))
            features, tokens, labels = zip(*found)
            kept |= {f"{split}_features": torch.cat(features, 1), f"{split}_labels":
                     torch.cat(labels), f"{split}_tokens": torch.cat(tokens, 1)}  # fmt: skip
        write_atomic(file, save(kept))
    kept = load_file(file)
    test = kept["test_tokens"][0], kept["test_features"][0], kept["test_labels"]
    return Bed(tok, *(kept[f"train_{n}"] for n in ("features", "tokens", "labels")), test)


def model_config(variant: Variant, tok: MultiScaleVQVAE) -> VARConfig:
    """The base's shape with the variant's change."""
    return replace(BASE.model(3, tok, 10), **variant.shape)


class Run:
    """A variant's model, its optimizers and its average."""

    def __init__(self, variant: Variant, bed: Bed, images: int, seed: int) -> None:
        self.variant, self.bed = variant, bed
        self.config = model_config(variant, bed.tok)
        base = model_config(VARIANTS["base"], bed.tok)
        self.flops = var_training_flops(self.config) / var_training_flops(base)
        self.images = round(images / self.flops / 128) * 128
        self.recipe = replace(BASE.training(3, seed), decay=0.5, **variant.recipe)
        torch.manual_seed(seed)
        self.model = quicken(VAR(self.config))
        variant.patch(self.model)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        r = self.recipe
        self.optimizers = make_optimizers(self.model, r.lr, r.weight_decay, r.muon_lr)
        if variant.optimizer == "soap":
            group = {"params": self.optimizers["muon"].param_groups[0]["params"]}
            group["peak"] = r.muon_lr
            self.optimizers["muon"] = SOAP([group], r.muon_lr, r.weight_decay)
        self.updater = Updater(self.model, self.optimizers.values(), r.clip)
        self.ema, self.rng = averaged(self.model, r.ema), torch.Generator().manual_seed(seed)

    def batches(self, images: int) -> list[int]:
        """Images of each step."""
        share = images // len(self.variant.batches)
        return [size for size in self.variant.batches for _ in range(share // size)]

    def order(self) -> tuple[Tensor, Tensor]:
        """Rows of the images and whether they are mirrored, in the order of training."""
        count = min(self.images // self.variant.epochs, len(self.bed.labels))
        rng, rows, kinds = torch.Generator().manual_seed(self.recipe.seed), [], []
        # The same prefix of one permutation for all, so that equal lengths mean equal images.
        known = torch.randperm(len(self.bed.labels), generator=rng)[:count]
        first = torch.randint(2, (len(self.bed.labels),), generator=rng)[:count]
        for epoch in range(-(-self.images // count)):
            drawn = torch.arange(count) if not epoch else torch.randperm(count, generator=rng)
            at_random = torch.randint(2, (count,), generator=rng) if epoch else first
            in_turn = (first + epoch) % 2
            kinds.append((in_turn if self.variant.mirrored == "in turn" else at_random)[drawn])
            rows.append(known[drawn])
        return torch.cat(rows)[: self.images], torch.cat(kinds)[: self.images]

    def step(self, rows: Tensor, kinds: Tensor, seen: int) -> Tensor:
        """One step on these images, after `seen` others; the loss before it."""
        set_rates(self.optimizers.values(), self.recipe, seen + len(rows) // 2, self.images)
        tokens, features = self.bed.tokens[kinds, rows], self.bed.features[kinds, rows]
        targets, inputs = self.variant.teach(self.bed.tok, tokens, features, self.rng)
        draws = torch.rand(len(rows), 1 + 2 * self.config.depth, generator=self.rng)
        with autocast():
            logits = self.model.train()(self.bed.labels[rows], inputs, draws)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        self.updater.step(loss)
        self.ema.update_parameters(self.model)
        return loss.detach()

    def train(self) -> int:
        """The whole run; the number of its steps."""
        (rows, kinds), seen, sizes = self.order(), 0, self.batches(self.images)
        for size in sizes:
            self.step(rows[seen : seen + size], kinds[seen : seen + size], seen)
            seen += size
        return len(sizes)

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """Held-out losses of the averaged weights."""
        model, (tokens, features, labels) = self.ema.module.eval(), self.bed.test
        terms = held_out_terms(model, self.bed.tok, TokenSet([tokens[None]], labels), len(labels))
        found = {name: terms[name] for name in ("loss", "loss_last")}
        for teach in (flipped, moved):  # half of the images: these say less
            n, rng = max(1, len(labels) // 2), torch.Generator().manual_seed(0)
            targets, inputs = teach(self.bed.tok, tokens[:n], features[:n], rng)
            with autocast():
                logits = model(labels[:n], inputs)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            found[f"loss_{teach.__name__}"] = loss.item()
        return found


def seconds(bed: Bed, names: Sequence[str], rounds: int) -> list[dict]:
    """What an image costs in training beside the base, in turn with it: seconds of a processor."""
    rows, kinds = torch.arange(128) % len(bed.labels), torch.zeros(128, dtype=torch.long)
    found = []
    for name in names:
        pair = [Run(VARIANTS[n], bed, 4096, 0) for n in ("base", name)]
        spent = [0.0, 0.0]
        for turn in range(rounds + 1):
            for i, run in enumerate(pair):
                start, at = time.process_time(), 0
                for size in run.batches(128):
                    run.step(rows[at : at + size], kinds[at : at + size], 2048)
                    at += size
                spent[i] += (time.process_time() - start) * (turn > 0)  # the first warms up
        found.append({"variant": name, "ratio": spent[1] / spent[0], "ms_image_base":
                      1000 * spent[0] / rounds / 128, "rounds": rounds} | origin())  # fmt: skip
        print(f"{name}: {found[-1]['ratio']:.3f} of {found[-1]['ms_image_base']:.1f} ms an image",
              flush=True)
    return found


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tricks"), help="encoded images")
    parser.add_argument("--csv", type=Path, default=RESULTS / "cifar_tricks.csv")
    parser.add_argument("--images", type=int, default=6144, help="of a run of the base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--held-out", type=int, default=500, help="test images")
    parser.add_argument("--cost", action="store_true", help="seconds an image: *_cost.csv")
    parser.add_argument("--rounds", type=int, default=5, help="of --cost, of 128 images")
    options = parser.parse_args(args)
    bed = make_bed(options.out / "bed.safetensors", 6144, options.held_out)
    if options.cost:
        file = options.csv.with_name(f"{options.csv.stem}_cost.csv")
        print(f"wrote {write_rows(file, seconds(bed, options.only, options.rounds))}")
        return
    for seed, name in itertools.product(options.seeds, options.only):
        if (name, seed) in ((r["variant"], r["seed"]) for r in rows_of(options.csv)):
            continue
        run, start = Run(VARIANTS[name], bed, options.images, seed), time.perf_counter()
        steps = run.train()
        row = {"variant": name, "seed": seed, "images": run.images, "steps": steps,
               "flops_ratio": run.flops, "parameters": run.parameters, **run.losses(),
               "held_out": options.held_out}  # fmt: skip
        write_rows(options.csv, [*rows_of(options.csv), row | origin()])
        print(f"{name}, seed {seed}: {row['loss']:.4f}, {row['loss_last']:.4f} after "
              f"{run.images} images, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
