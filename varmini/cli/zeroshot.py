"""`varmini zeroshot`: in- and out-painting, edits, super-resolution and error repair, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import load_images
from ..runtime.distributed import progress
from ..runtime.files import check_writable
from ..runtime.machine import autocast, device
from ..runtime.tables import origin, write_rows
from ..training.classifier import Classifier
from .draw import bed, load_pair
from .main import parse

SHOWN = (
    "with the smallest seam, then the eight with the largest",
    "most surely of the class asked for, then the eight least so",
)
"""What the pictures of painting, and of editing, show."""


@dataclass(frozen=True)
class ZeroShot:
    """Measures what a model does without being trained for it, on held-out images.

    Writes painting.csv, super_resolution.csv, repair.csv, and pictures: of painting the best and
    the worst, of super-resolution the first.
    """

    var: str = "cifar10"
    """Transformer: a shipped name, a folder, or a hub id."""
    tokenizer: str | None = None
    """Its tokenizer; None: the folder `tokenizer` beside it, or the shipped one of that name."""
    data: str | None = None
    """Test images: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Judge: a shipped name or folder; None: "cifar10" for colour, "fashion" for grey."""
    limit: int = 200
    """So many test images, evenly spaced over the set."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Shares of a map's tokens that are corrupted for the test of repair."""
    cfg: float = 3.0
    """Guidance of painting and editing (the paper's demonstration has 3)."""
    repair_cfg: float = 1.5
    """Guidance of super-resolution and repair."""
    seed: int = 0
    """The same seed gives the same pictures."""
    batch_size: int = 50
    """Images drawn together."""
    out: Path = Path("results/zero_shot")
    """Folder of the tables and pictures."""


def zeroshot(args: Sequence[str], prog: str) -> None:
    """`varmini zeroshot`."""
    o = parse(ZeroShot, args, prog)
    check_writable(o.out / "painting.csv")
    var, tok, _ = load_pair(o.var, o.tokenizer)
    channels = tok.config.image_channels
    name = o.classifier or ("cifar10" if channels == 3 else "fashion")
    judge = Classifier.from_pretrained(name).to(device())
    data = load_images(o.data or bed(tok), "test", limit=o.limit, size=tok.image_size[0],
                       channels=channels)  # fmt: skip
    pairs = [data[i] for i in range(len(data))]
    images = torch.stack([x for x, _ in pairs]).to(device())
    labels = torch.tensor([int(y) for _, y in pairs], device=device())
    about = {"var": o.var, "data": data.name, "classifier": name} | origin()
    # The paper keeps 900 of 4,096 codes.
    top_k = round(tok.vocab_size * 900 / 4096)
    with autocast():
        _paint(o, var, tok, judge, images, labels, top_k, about)
        _refine(o, var, tok, judge, images, labels, top_k, about)


def _paint(o: ZeroShot, var, tok, judge, images: Tensor, labels: Tensor, top_k: int, about) -> None:
    from ..experiments.zero_shot.painting import TASKS, painting, ranked
    from ..plots.images import image_grid, save

    rows = []
    for task in progress(TASKS, "painting"):
        for smooth in (True, False):
            row, painted = painting(
                var, tok, images, labels, judge, task, cfg=o.cfg, top_k=top_k, smooth=smooth,
                seed=o.seed, batch_size=o.batch_size,
            )  # fmt: skip
            rows.append(row | about)
            if smooth:
                order = ranked(judge, painted, labels, task)
                shown = torch.cat([order[:8], order[-8:]])
                own = tok.decode(tok.encode(images[shown]))
                cells = torch.cat([images[shown].cpu(), own.cpu(), painted[shown].cpu()])
                title = f"{task.capitalize()}: the eight {SHOWN[task == 'editing']}"
                o.out.mkdir(parents=True, exist_ok=True)
                figure = image_grid(cells.float(), columns=len(shown), title=title,
                                    rows=("original", "tokenizer", "painted"))  # fmt: skip
                save(figure, o.out / f"{task}.png")
    print(f"wrote {write_rows(o.out / 'painting.csv', rows)} and {len(TASKS)} pictures beside it")


def _refine(
    o: ZeroShot, var, tok, judge, images: Tensor, labels: Tensor, top_k: int, about
) -> None:
    from ..experiments.zero_shot.painting import super_resolution
    from ..experiments.zero_shot.repair import repair
    from ..plots.images import image_grid, save

    options = dict(cfg=o.repair_cfg, top_k=top_k, seed=o.seed, batch_size=o.batch_size)
    scales, rows, few, cells = len(tok.schedule), [], images[:16], [images[:16]]
    names = ["original"]
    for known in progress(range(scales + 1), "super-resolution"):
        row, drawn = super_resolution(var, tok, images, labels, judge, known, **options)
        rows.append(row | about)
        if 0 < known < scales:
            cells += [tok.decode(tok.encode(few), num_scales=known), drawn[:16]]
            names += [f"{known} of {scales} maps", "the rest drawn"]
    title = "Super-resolution: an image's first maps alone, then with the other maps drawn"
    figure = image_grid(torch.cat([x.float().cpu() for x in cells]), columns=len(few), title=title,
                        rows=names)  # fmt: skip
    save(figure, o.out / "super-resolution.png")
    print(f"wrote {write_rows(o.out / 'super_resolution.csv', rows)}")
    rows = []
    for scale in progress(range(1, scales), "repair"):
        for share in o.shares:
            row = repair(var, tok, images, labels, judge, scale, share, **options)
            rows.append(row | about)
    print(f"wrote {write_rows(o.out / 'repair.csv', rows)}")
