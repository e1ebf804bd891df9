"""What a VAR's likelihood is good for, measured: writes the tables of results/likelihood/.

    VARMINI_DATA=... python scripts/evidence/likelihood.py [--only classifier|strangers|choice|beam]

classifier.csv: accuracy of argmax over classes of log p(tokens | class) on test images, from each
scale alone and from all up to it, beside a classifier trained as one, with passes and FLOPs an
image. strangers.csv: how well log p tells other images from Fashion-MNIST's. choice.csv: best of
eight draws, chosen in several ways, measured by an evaluator that chose nothing. beam.csv: choosing
after the first scales already, beside best of n at the same number of tokens drawn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from varmini import VAR, MultiScaleVQVAE
from varmini.data import load_images, to_float
from varmini.evaluation.evaluators import classifier_evaluator
from varmini.experiments.zero_shot import likelihood as lh
from varmini.runtime.machine import autocast
from varmini.runtime.tables import RESULTS, Row, origin, write_rows
from varmini.training.classifier import Classifier
from varmini.training.flops import encode_flops, var_flops

DRAWS, KEPT, SEEDS = 8, 300, range(5)
BEAMS = {
    "one draw": ((1, 1, 1, 1), (1, 1, 1, 1)),
    "best of 4": ((4, 4, 4, 4), (4, 4, 4, 1)),
    "short beam": ((8, 8, 8, 1), (2, 2, 1, 1)),
    "best of 8": ((8, 8, 8, 8), (8, 8, 8, 1)),
    "long beam": ((8, 8, 8, 8), (2, 2, 2, 1)),
}
"""Candidates and how many of them go on, a scale each, by `likelihood.beam`. Tokens drawn a
picture: 128 by the short beam, 120 by best of 4, 240 by the long beam and by best of 8."""


def models(bed: str) -> tuple[VAR, MultiScaleVQVAE, Classifier]:
    """The shipped models of a bed."""
    return tuple(kind.from_pretrained(bed).eval() for kind in (VAR, MultiScaleVQVAE, Classifier))


def test_images(name: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """n test images (n, C, 32, 32), evenly spaced over the set, and their labels (n,)."""
    data = load_images(name, "test", limit=n, size=32)
    images, labels = zip(*(data[i] for i in range(len(data))))
    return torch.stack(images), torch.tensor([int(x) for x in labels])


def classify(bed: str, data: str, n: int) -> list[Row]:
    """The likelihood classifier beside the network that was trained to classify."""
    var, tok, network = models(bed)
    images, labels = test_images(data, n)
    with autocast():
        found = lh.class_likelihoods(var, tok, images).float()
    with torch.no_grad():
        scores = torch.cat([network(part) for part in images.split(100)])
        with FlopCounterMode(display=False) as counter:
            network(images[:1])
    classes, size = var.config.num_classes, sum(p.numel() for p in var.parameters())
    flops = encode_flops(tok.config) + classes * sum(var_flops(var.config).values())
    cost = {"parameters": size, "passes": classes, "gflops": flops / 1e9}
    rows = [row | cost for row in lh.by_scale(found, labels)]
    cost = {"parameters": sum(p.numel() for p in network.parameters()), "passes": 1,
            "gflops": counter.get_total_flops() / 1e9}  # fmt: skip
    trained = {"which": "trained to classify", "scale": 0}
    rows.append(trained | lh.share_right(scores, labels) | cost)
    return [{"bed": bed, "data": data} | row for row in rows]


def strange(n: int) -> list[Row]:
    """How well the likelihood of the Fashion-MNIST model tells other images."""
    var, tok, _ = models("fashion")
    own, _ = test_images("fashion-subset", n)
    colour, _ = test_images("cifar10-subset", n)
    sets = {"itself": own} | lh.strangers(own, colour)
    null, found = torch.full((n,), var.config.num_classes), {}
    for name, images in sets.items():
        with autocast(), torch.no_grad():
            found[name] = lh.log_likelihood(var, tok, tok.encode(images), null).float()
    rows = []
    for name, values in found.items():
        role = "known" if name == "itself" else "strange"
        rows.append({"set": name, "role": role, "n": n, "nats": values.sum(1).mean().item(),
                     "auroc": lh.auroc(found["itself"].sum(1), values.sum(1))})  # fmt: skip
        for k in range(values.shape[1]):
            rows[-1][f"auroc_{k + 1}"] = lh.auroc(found["itself"][:, k], values[:, k])
    return rows


def choose() -> list[Row]:
    """Best of several draws on Fashion-MNIST, and guidance, which chooses nothing."""
    var, tok, network = models("fashion")
    evaluator = classifier_evaluator("fashion", kind="evaluator")
    data = load_images("fashion-subset", "test", limit=2000)
    real, _ = evaluator(to_float(data.images))
    labels, rows = torch.arange(10).repeat(KEPT // 10), []
    for seed in SEEDS:
        plain = dict(cfg=0, top_k=0, top_p=0)
        ways = lh.best_of(var, tok, labels, DRAWS, network, seed=seed, **plain)
        guided = dict(cfg=1.5, top_k=0, top_p=0)
        ways["guidance"] = lh.best_of(var, tok, labels, 1, network, seed=seed, **guided)["first"]
        for way, images in ways.items():
            rows.append({"way": way, "seed": seed, "kept": KEPT}
                        | {"draws": 1 if way in ("first", "guidance") else DRAWS}
                        | lh.measures(images, labels, evaluator, real)
                        | {"evaluator": evaluator.name})  # fmt: skip
    return rows


def beams() -> list[Row]:
    """A beam over the scales of Fashion-MNIST, and best of n at equal cost."""
    var, tok, network = models("fashion")
    evaluator = classifier_evaluator("fashion", kind="evaluator")
    images, real_labels = test_images("fashion-subset", 2000)
    real, _ = evaluator(images)
    labels, rows = torch.arange(10).repeat(KEPT // 10), []
    scores = {"likelihood": lh.likeliest, "classifier": lh.surest(tok, network)}
    sizes = tok.schedule.tokens_per_scale
    for way, (draws, keep) in BEAMS.items():
        for by in ("nothing",) if way == "one draw" else scores:
            for seed in SEEDS:
                score = scores.get(by, lh.likeliest)
                drawn, _ = lh.beam(var, tok, labels, draws, keep, score, seed=seed)
                rows.append({"way": way, "by": by, "seed": seed, "kept": KEPT}
                            | {"tokens": sum(d * n for d, n in zip(draws, sizes))}
                            | lh.measures(drawn, labels, evaluator, real)
                            | {"real_spread": lh.spread(real[:KEPT], real_labels[:KEPT])}
                            | {"evaluator": evaluator.name})  # fmt: skip
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("classifier", "strangers", "choice", "beam"))
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULTS / "likelihood")
    args = parser.parse_args()
    work = {
        "strangers": lambda: strange(args.n),
        "choice": choose,
        "beam": beams,
        "classifier": lambda: classify("fashion", "fashion-subset", args.n)
        + classify("cifar10", "cifar10", args.n),
    }
    for name, measure in work.items():
        if args.only in (None, name):
            rows = [row | origin() for row in measure()]
            print(f"wrote {write_rows(args.out / f'{name}.csv', rows)}", flush=True)
