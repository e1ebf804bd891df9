"""A network trained to classify, of the VAR's size and as many images: a row beside its likelihood.

    python scripts/evidence/equal_size.py [--seeds 0 1 2 3 4]

The shipped VAR of Fashion-MNIST is a classifier by its likelihood (`likelihood.py`). Here a
residual network with as many parameters sees as many of the same 10,000 images, and names the same
1,000 test images. The recipe is that of `varmini train classifier`, whose runs are whole epochs;
the VAR saw 4.4. Nothing is picked; a row a seed in results/likelihood/equal.csv, and a seed that is
there already is left alone.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from likelihood import test_images
from torch.utils.flop_counter import FlopCounterMode

from varmini import VAR
from varmini.data import batches, load_images
from varmini.experiments.zero_shot.likelihood import share_right
from varmini.fast.quicken import quicken
from varmini.runtime.files import read_json
from varmini.runtime.machine import autocast
from varmini.runtime.pretrained import resolve_folder
from varmini.runtime.tables import RESULTS, Row, origin, rows_of, write_rows
from varmini.training.classifier import Classifier, ClassifierConfig, random_shift

WIDTHS, LAYOUT = (24, 48, 96, 304), torch.channels_last
CSV = RESULTS / "likelihood" / "equal.csv"


def train(seed: int, images: int, batch_size: int) -> Classifier:
    """SGD with one cycle, label smoothing, mirrored and shifted images."""
    torch.manual_seed(seed)
    model = quicken(Classifier(ClassifierConfig(image_channels=1, widths=WIDTHS)).to(
        memory_format=LAYOUT))  # fmt: skip
    steps, data = images // batch_size, load_images("fashion-subset", "train")
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.25)
    stream = batches(data, batch_size, seed=seed, flip=True)
    for step in range(steps):
        shown, labels = next(stream)
        with autocast():
            logits = model(random_shift(shown, 2).to(memory_format=LAYOUT))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        cycle.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.2f}", flush=True)
    return model.eval()


def measure(seed: int) -> Row:
    """One network: trained, and asked for the classes of the test images."""
    told = read_json(resolve_folder("fashion", VAR.kind) / "run.json")["config"]
    size = sum(p.numel() for p in VAR.from_pretrained("fashion").parameters())
    start = time.process_time()
    model = train(seed, told["images"], told["batch_size"])
    seconds, own = time.process_time() - start, sum(p.numel() for p in model.parameters())
    assert abs(own / size - 1) < 0.1, f"{own:,} parameters, the VAR has {size:,}"
    images, labels = test_images("fashion-subset", 1000)
    with torch.no_grad():
        scores = torch.cat([model(part) for part in images.split(100)])
        with FlopCounterMode(display=False) as counter:
            model(images[:1])
    return {"bed": "fashion", "data": "fashion-subset", "which": "of equal size", "seed": seed,
            **share_right(scores, labels), "parameters": own, "passes": 1,
            "gflops": counter.get_total_flops() / 1e9, "images": told["images"],
            "cpu_seconds": seconds} | origin()  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    for seed in parser.parse_args().seeds:
        rows = rows_of(CSV)
        if seed not in {row["seed"] for row in rows}:
            row = measure(seed)
            print(f"seed {seed}: {row['accuracy']:.1%} in {row['cpu_seconds']:.0f} s of one core")
            write_rows(CSV, [*rows, row])
