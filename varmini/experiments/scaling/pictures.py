"""Do larger models draw better pictures? Every finished run of a sweep is drawn from and measured.

Source: VAR, figure 7.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ... import sample
from ...data import fitted
from ...evaluation.evaluators import load_evaluator
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR
from ...plots.images import image_grid, save
from ...runtime.distributed import progress
from ...runtime.machine import autocast, device
from ...runtime.tables import Row, origin, write_rows
from ..comparison.measure import measure_against
from ..comparison.training import finished
from .sweep import Sweep

SAMPLING = {"cfg": 1.5, "top_p": 0.96}
"""The paper's; its 900 of 4,096 codes are taken as a share."""


def draw(var: VAR, tok: MultiScaleVQVAE, labels: Tensor) -> Tensor:
    """Pictures (B, C, H, W) of labels (B,), on the CPU, in parts of 100, by the same seeds."""
    top_k, parts = round(tok.vocab_size * 900 / 4096), []
    with torch.no_grad(), autocast():
        for i, part in enumerate(labels.split(100)):
            images = sample(var, tok, part.to(device()), top_k=top_k, seed=i, **SAMPLING)
            parts.append(images.float().cpu())
    return torch.cat(parts)


def measure_pictures(
    sweep: Sweep, out: Path, csv: Path, per_class: int, classifier: str | None = None
) -> Path:
    """Draws from every finished run of a sweep and measures the pictures.

    Writes `csv`, with a row for every run, and beside it a sheet of pictures of the first seed.

    out: the folder of the runs. per_class: pictures of each class from each run. classifier: what
    evaluates, as in `load_evaluator`. ValueError when there is no finished run, or too few pictures
    for a distance.
    """
    tok = MultiScaleVQVAE.from_pretrained(sweep.tokenizer).to(device())
    test = fitted(sweep.data, "test", tok.image_size, tok.config.image_channels)
    evaluator, _ = load_evaluator(classifier, test.channels, test.size)
    measure, classes = measure_against(evaluator, test), len(test.classes)
    labels, two = (torch.arange(classes).repeat_interleave(n) for n in (per_class, 2))
    about: Row = {"per_class": per_class, **SAMPLING, "classifier": evaluator.about} | origin()
    rows, sheet = [], {}
    runs = [run for run in sweep.runs(out) if finished(*run[2:])]
    if not runs:
        raise ValueError(f"{out} holds no finished run of this sweep: run `varmini scaling` first")
    for depth, seed, folder, _ in progress(runs, "pictures"):
        var = VAR.from_pretrained(folder).to(device())
        row = {"depth": depth, "seed": seed, "images": sweep.images}
        rows.append(row | measure(draw(var, tok, labels), labels) | about)
        if seed == sweep.seeds[0]:
            sheet[f"d = {depth}"] = draw(var, tok, two)
    title = f"The same random seeds at every size, {sweep.images:,} training images"
    headings = [test.classes[label] for label in two.tolist()]
    figure = image_grid(torch.cat(list(sheet.values())), len(headings), headings, title,
                        rows=list(sheet))  # fmt: skip
    save(figure, csv.with_suffix(".png"))
    return write_rows(csv, rows)
