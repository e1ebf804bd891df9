"""`varmini zeroshot`: in- and out-painting, edits, super-resolution and error repair, measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..data import load_images
from ..evaluation.resnet import ResNet
from ..experiments.zero_shot.painting import TASKS, painting, ranked, super_resolution
from ..experiments.zero_shot.repair import repair
from ..model.sampler import RULES
from ..plots.images import image_grid
from ..runtime.distributed import progress
from ..runtime.files import check_writable
from ..runtime.machine import autocast, device
from ..runtime.tables import Row, origin, write_rows
from ..training.classifier import Classifier
from .models import Flat, Pair, bed, save_picture


@dataclass(frozen=True)
class Zeroshot:
    """Measures what a model does without being trained for it, on held-out images.

    Writes painting.csv, super_resolution.csv, repair.csv, and pictures: of painting the best and
    the worst, of super-resolution the first.
    """

    models: Annotated[Pair, Flat] = Pair()
    data: str | None = None
    """Test images: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Evaluator: a shipped classifier's name or a folder; None: the shipped network that takes part
    in no training, for colour or for grey."""
    limit: int = 200  # So many test images, evenly spaced over the set.
    only: Literal["painting", "repair"] | None = None  # Measure this alone.
    shares: tuple[float, ...] = (0.25, 1.0)
    """Shares of a map's tokens that are corrupted for the test of repair."""
    cfg: float = 3.0  # Guidance of painting and editing (the paper's demonstration has 3).
    seed: int = 0  # The same seed gives the same pictures.
    batch_size: int = 50  # Images drawn together.
    out: Path = Path("results/zero_shot")  # Folder of the tables and pictures.

    def __call__(self) -> None:
        check_writable(self.out / "painting.csv")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"--shares are {list(self.shares)}, expected some in (0, 1]")
        var, tok, _ = self.models.load()
        channels = tok.config.image_channels
        name, kind = self.classifier, Classifier
        if name is None:
            name, kind = "cifar10" if channels == 3 else "fashion", ResNet
        classifier = kind.from_pretrained(name).to(device()).eval()
        options = dict(limit=self.limit, size=tok.image_size[0], channels=channels)
        data = load_images(self.data or bed(tok), "test", **options)
        images, labels = map(list, zip(*(data[i] for i in range(len(data)))))
        labels = torch.tensor(labels, device=device())
        given = (var, tok, torch.stack(images).to(device()), labels, classifier)
        # The paper keeps 900 of 4,096 codes.
        options = dict(top_k=round(tok.vocab_size * 900 / 4096))
        options |= dict(seed=self.seed, batch_size=self.batch_size)
        about = {"var": self.models.var, "data": data.name, "classifier": f"{name} {kind.kind}"}
        about |= origin()
        with autocast():
            if self.only != "repair":
                self._write("painting", self._paint(given, options), about)
            if not self.only:
                self._write("super_resolution", self._super_resolve(given, options), about)
            if self.only != "painting":
                rows = [
                    repair(*given, scale, share, **options)
                    for scale in progress(range(1, len(tok.schedule)), "repair")
                    for share in self.shares
                ]
                self._write("repair", rows, about)

    def _write(self, name: str, rows: list[Row], about: Row) -> None:
        print(f"wrote {write_rows(self.out / f'{name}.csv', [row | about for row in rows])}")

    def _show(self, name: str, title: str, rows: Sequence[str], cells: list[Tensor]) -> None:
        images = torch.cat([x.float().cpu() for x in cells])
        figure = image_grid(images, columns=len(cells[0]), title=title, rows=rows)
        save_picture(figure, self.out / f"{name}.png")

    def _paint(self, given: tuple, options: dict) -> list[Row]:
        _, tok, images, labels, classifier = given
        rows, names = [], ("original", "tokenizer", "painted")
        for task in progress(TASKS, "painting"):
            how = dict(cfg=self.cfg, **options)
            by_rule = {rule: painting(*given, task, rule=rule, **how) for rule in RULES}
            row, _ = painting(*given, task, smooth=False, **how)
            rows += [*(row for row, _ in by_rule.values()), row]
            painted = by_rule["painted"][1]
            order = ranked(classifier, painted, labels, task)
            shown = torch.cat([order[:8], order[-8:]])
            own = tok.decode(tok.encode(images[shown]))
            best = "with the smallest seam, then the eight with the largest"
            if task == "editing":
                best = "most surely of the class asked for, then the eight least so"
            title = f"{task.capitalize()}: the eight {best}"
            self._show(task, title, names, [images[shown], own, painted[shown]])
        return rows

    def _super_resolve(self, given: tuple, options: dict) -> list[Row]:
        _, tok, images, *_ = given
        scales, rows, few = len(tok.schedule), [], images[:16]
        cells, names = [few], ["original"]
        for known in progress(range(scales + 1), "super-resolution"):
            row, drawn = super_resolution(*given, known, **options)
            rows.append(row)
            if 0 < known < scales:
                cells += [tok.decode(tok.encode(few), num_scales=known), drawn[:16]]
                names += [f"{known} of {scales} maps", "the others drawn"]
        title = "Super-resolution: an image's first maps alone, then with the other maps drawn"
        self._show("super-resolution", title, names, cells)
        return rows
