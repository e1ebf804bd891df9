"""`varmini evaluate ...`: what ends in numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from ..data import LazyImages, in_order, load_images
from ..evaluation import npz
from ..evaluation.evaluators import Evaluator, load_evaluator
from ..evaluation.fid import Reference, load_reference, measure, reference_of, to_channels_first
from ..evaluation.fid import evaluate_tokenizer as measure_tokenizer
from ..evaluation.metrics import check_samples
from ..evaluation.samples import Draw, draw_samples, weights_checksum
from ..model.tokenizer import MultiScaleVQVAE
from ..runtime import distributed
from ..runtime.files import check_writable
from ..runtime.machine import autocast, device, precision
from ..runtime.tables import append_row, origin
from .models import Flat, Pair, bed, output_file, warn


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of columns out of nested results: usage.scales[0].share is usage_scales_1_share."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple):
            value = dict(enumerate(value, 1))
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}_") if isinstance(value, dict) else {name: value}
    return flat


def report(path: Path, about: dict[str, Any], results: dict[str, Any]) -> None:
    """Prints one result, a value a line, and appends it to a CSV file."""
    row = about | flatten(results)
    width = max(map(len, row))
    for key, value in row.items():
        print(f"{key:<{width}}  {f'{value:.4g}' if isinstance(value, float) else value}")
    where = origin()
    append_row(path, row | {k: where[k] for k in ("date", "hardware", "command", "commit")})


def _check_csv(path: Path, first: str) -> None:
    """Checks the file for results before any long work; `first` names its first column."""
    output_file(path, ".csv", overwrite=True)
    if path.exists():
        with open(path, errors="replace") as file:
            if file.readline().split(",")[0] != first:
                raise ValueError(f"{path} holds other columns: choose another --out")


@dataclass(frozen=True)
class Evaluation:
    """Which network evaluates, on which images."""

    data: str | None = None
    """Real images: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Evaluator: "inception" (FID; needs the extra [metrics]), a shipped classifier or a folder;
    None: "inception" above 64 pixels if it can be had, else the shipped network that takes part in
    no training."""
    limit: int | None = None  # So many real images, evenly spaced over the set; None: all.
    batch_size: int = 250  # Images worked on together.
    workers: int = 0  # Processes that decode images; sets in memory need none.

    def evaluator(self, tok: MultiScaleVQVAE) -> Evaluator:
        """The network; ValueError when it cannot be had."""
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}, expected at least 1")
        channels, size = tok.config.image_channels, tok.image_size[0]
        found, line = load_evaluator(self.classifier, channels, size)
        if line:
            warn(line)
        return found

    def images(self, tok: MultiScaleVQVAE, split: str = "test") -> Any:
        """Images as the tokenizer reads them, from the centre; ValueError when none fit."""
        view = dict(size=tok.image_size[0], channels=tok.config.image_channels, limit=self.limit)
        dataset = load_images(self.data or bed(tok), split, **view)
        if isinstance(dataset, LazyImages):
            dataset.train = False  # a reference is measured on centre crops
        return dataset


@dataclass(frozen=True)
class EvaluateTokenizer:
    """Measures reconstructions of test images; appends a row to a CSV file."""

    evaluation: Annotated[Evaluation, Flat] = Evaluation()
    tokenizer: str = "cifar10"  # Tokenizer: a shipped name, a folder, or a hub id.
    out: Path = Path("out/evaluation-tokenizer.csv")  # CSV file that gets a row more.

    def __call__(self) -> None:
        _check_csv(self.out, "tokenizer")
        tok = MultiScaleVQVAE.from_pretrained(self.tokenizer).to(device())
        evaluator, dataset = self.evaluation.evaluator(tok), self.evaluation.images(tok)
        check_samples(len(dataset), evaluator.features, f"{dataset.name}, test")
        with autocast():
            batch = (self.evaluation.batch_size, self.evaluation.workers)
            figures = measure_tokenizer(tok, dataset, evaluator, *batch)
        if "fid" in figures:  # of reconstructions, the field says
            figures["rfid"] = figures.pop("fid")
        about = {"tokenizer": self.tokenizer, "data": dataset.name}
        report(self.out, about | {"classifier": evaluator.about}, figures)
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class EvaluateSamples:
    """Draws samples of every class and compares them with real images; a CSV row for each --cfg.

    The same command goes on with a stopped draw; torchrun shares it among processes. The field's
    protocol: 50 samples a class of ImageNet against ADM's reference file.
    """

    evaluation: Annotated[Evaluation, Flat] = Evaluation()
    models: Annotated[Pair, Flat] = Pair()
    per_class: int | None = None
    """Samples a class; None: 50 for 1,000 classes and more, else 100. Distances are comparable only
    between equal numbers."""
    cfg: tuple[float, ...] = (1.5,)  # Guidance at the last scale, one evaluation each.
    top_k: int = 900  # Draw from the so many likeliest tokens; 0: all.
    top_p: float = 0.96
    """Draw from the likeliest tokens that hold this share of the probability; 0 or 1: all."""
    seed: int = 0
    """The same seed gives the same pictures; every picture has its own random numbers."""
    reference: Path | None = None
    """.npz file with mu and sigma (pytorch-fid, ADM), images arr_0, or both; None: the test images
    of --data."""
    split: Literal["train", "test"] = "test"  # Part of --data that is the reference.
    samples: Path = Path("out/samples")
    """Folder that gets a folder for each draw, with samples.npz for the ADM evaluator."""
    out: Path = Path("out/evaluation-samples.csv")  # CSV file that gets the rows.

    def __call__(self) -> None:
        distributed.start()
        size = self.evaluation.batch_size
        with distributed.together():  # what is wrong is told once, and before any long work
            var, tok, _ = self.models.load()
            classes = var.config.num_classes
            per_class = self.per_class
            if per_class is None:
                per_class = 50 if classes >= 1000 else 100
            given = {k: getattr(self, k) for k in ("top_k", "top_p", "seed")}
            given["precision"] = str(precision())
            checksums = weights_checksum(var), weights_checksum(tok)
            draws = [Draw(*checksums, classes, per_class, cfg=cfg, **given) for cfg in self.cfg]
            if distributed.is_main():
                evaluator, reference = self._prepare(tok, classes, per_class)
        files = [draw_samples(var, tok, draw, self.samples, batch_size=size) for draw in draws]
        if not distributed.is_main():
            return
        known = reference()
        about = {"var": self.models.var, "network": evaluator.about, "reference": known.about}
        shown = ("per_class", "cfg", "seed", "top_k", "top_p")
        for draw, file in zip(draws, files):
            images = (to_channels_first(x) for x in npz.read_images(file, size))
            options = dict(num_classes=classes, seed=draw.seed)
            results = measure(evaluator, images, draw.labels, known, **options)
            report(self.out, about | {k: getattr(draw, k) for k in shown}, results)
            print(f"wrote {file}")
        print(f"wrote {self.out}")

    def _prepare(
        self, tok: MultiScaleVQVAE, classes: int, per_class: int
    ) -> tuple[Evaluator, Callable[[], Reference]]:
        """Checks all files; the evaluator, and what makes the reference from images seen later."""
        _check_csv(self.out, "var")
        check_writable(self.samples / "draw.json")
        evaluation, evaluator = self.evaluation, self.evaluation.evaluator(tok)
        check_samples(classes * per_class, evaluator.features, f"--per-class {per_class}")
        if self.reference is not None:
            known = load_reference(self.reference, evaluator, evaluation.batch_size)
            return evaluator, lambda: known
        dataset = evaluation.images(tok, self.split)
        name = f"{len(dataset)} {self.split} images of {dataset.name}"
        check_samples(len(dataset), evaluator.features, name)
        if isinstance(dataset, LazyImages):
            name += ", shorter side 1.125 x size, centre"

        def compute() -> Reference:
            stream = in_order(dataset, evaluation.batch_size, evaluation.workers)
            return reference_of(evaluator, (images for images, _ in stream), len(dataset), name)

        return evaluator, compute
