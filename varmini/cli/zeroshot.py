"""`varmini zeroshot`: in- and out-painting, edits, super-resolution and error repair, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from ..data import load_images
from ..runtime.distributed import progress
from ..runtime.files import check_writable
from ..runtime.machine import autocast, device
from ..runtime.tables import Row, origin, write_rows
from ..training.classifier import Classifier
from .main import parse
from .models import Flat, Pair, bed, save_picture

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

    models: Annotated[Pair, Flat] = Pair()
    data: str | None = None
    """Test images: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Evaluator: a shipped name or folder; None: "cifar10" for colour, "fashion" for grey."""
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
    var, tok, _ = o.models.load()
    channels = tok.config.image_channels
    name = o.classifier or ("cifar10" if channels == 3 else "fashion")
    judge = Classifier.from_pretrained(name).to(device())
    options = dict(limit=o.limit, size=tok.image_size[0], channels=channels)
    data = load_images(o.data or bed(tok), "test", **options)
    pairs = [data[i] for i in range(len(data))]
    images = torch.stack([x for x, _ in pairs]).to(device())
    labels = torch.tensor([int(y) for _, y in pairs], device=device())
    given = (var, tok, images, labels, judge)
    about = {"var": o.models.var, "data": data.name, "classifier": name} | origin()
    # The paper keeps 900 of 4,096 codes.
    options = dict(top_k=round(tok.vocab_size * 900 / 4096), seed=o.seed, batch_size=o.batch_size)
    with autocast():
        _paint(o, given, options, about)
        _super_resolve(o, given, options, about)
        _repair(o, given, options, about)


def _paint(o: ZeroShot, given: tuple, options: dict, about: Row) -> None:
    from ..experiments.zero_shot.painting import TASKS, painting, ranked
    from ..plots.images import image_grid

    _, tok, images, labels, judge = given
    rows = []
    for task in progress(TASKS, "painting"):
        for smooth in (True, False):
            row, painted = painting(*given, task, cfg=o.cfg, smooth=smooth, **options)
            rows.append(row | about)
            if not smooth:
                continue
            order = ranked(judge, painted, labels, task)
            shown = torch.cat([order[:8], order[-8:]])
            own = tok.decode(tok.encode(images[shown]))
            cells = torch.cat([images[shown].cpu(), own.cpu(), painted[shown].cpu()]).float()
            title = f"{task.capitalize()}: the eight {SHOWN[task == 'editing']}"
            names = ("original", "tokenizer", "painted")
            figure = image_grid(cells, columns=len(shown), title=title, rows=names)
            save_picture(figure, o.out / f"{task}.png")
    print(f"wrote {write_rows(o.out / 'painting.csv', rows)} and {len(TASKS)} pictures beside it")


def _super_resolve(o: ZeroShot, given: tuple, options: dict, about: Row) -> None:
    from ..experiments.zero_shot.painting import super_resolution
    from ..plots.images import image_grid

    _, tok, images, *_ = given
    scales, rows, few = len(tok.schedule), [], images[:16]
    cells, names = [few], ["original"]
    for known in progress(range(scales + 1), "super-resolution"):
        row, drawn = super_resolution(*given, known, cfg=o.repair_cfg, **options)
        rows.append(row | about)
        if 0 < known < scales:
            cells += [tok.decode(tok.encode(few), num_scales=known), drawn[:16]]
            names += [f"{known} of {scales} maps", "the others drawn"]
    title = "Super-resolution: an image's first maps alone, then with the other maps drawn"
    cells = torch.cat([x.float().cpu() for x in cells])
    figure = image_grid(cells, columns=len(few), title=title, rows=names)
    save_picture(figure, o.out / "super-resolution.png")
    print(f"wrote {write_rows(o.out / 'super_resolution.csv', rows)}")


def _repair(o: ZeroShot, given: tuple, options: dict, about: Row) -> None:
    from ..experiments.zero_shot.repair import repair

    scales = range(1, len(given[1].schedule))
    rows = [
        repair(*given, scale, share, cfg=o.repair_cfg, **options) | about
        for scale in progress(scales, "repair")
        for share in o.shares
    ]
    print(f"wrote {write_rows(o.out / 'repair.csv', rows)}")
