"""`varmini evaluate ...`: what ends in numbers."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

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
from ..runtime.machine import autocast, device, precision, provenance
from ..runtime.tables import write_rows
from .draw import bed, load_pair
from .main import parse

Flat = tyro.conf.arg(name="")
OTHER_COLUMNS = "{} holds other columns than this result: choose another --out"


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of columns out of nested results: usage.scales[0].share is usage_scales_1_share."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple):
            value = dict(enumerate(value, 1))
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}_") if isinstance(value, dict) else {name: value}
    return flat


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a row to a CSV file; the rows before it stay, whatever happens.

    Raises:
        ValueError: when the file has other columns or is no CSV file.
    """
    rows = read_rows(path, list(row))
    write_rows(path, [*rows, row])


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of an earlier CSV file, none if there is no file; ValueError on other columns."""
    if not path.exists():
        return []
    try:
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), reader.fieldnames or []
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}): choose another --out") from None
    if list(found) != list(columns):
        raise ValueError(OTHER_COLUMNS.format(path))
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{path} has a row with too many or too few cells: choose another --out")
    return rows


def report(path: Path, about: dict[str, Any], results: dict[str, Any]) -> None:
    """Prints one result, a value a line, and appends it to a CSV file."""
    row = about | flatten(results)
    width = max(map(len, row))
    for key, value in row.items():
        print(
            f"{key:<{width}}  {value:.4g}"
            if isinstance(value, float)
            else f"{key:<{width}}  {value}"
        )
    origin = provenance()
    append_row(path, row | {k: origin[k] for k in ("date", "hardware", "command", "commit")})


def _csv(path: Path, first: str) -> Path:
    """Checks the file for results before any long work; `first` names its first column."""
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise ValueError(f"--out {path} is no .csv file: name one, new or with earlier results")
    if path.exists():
        with open(path, errors="replace") as file:
            if file.readline().split(",")[0] != first:
                raise ValueError(OTHER_COLUMNS.format(path))
    return check_writable(path)


@dataclass(frozen=True)
class Judging:
    """Who judges, on which images."""

    data: str | None = None
    """Real images: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Judge: "inception" (FID; needs the extra [metrics]), a shipped name or a folder; None:
    "inception" above 64 pixels if it can be had, else the shipped "cifar10" or "fashion"."""
    limit: int | None = None
    """So many real images, evenly spaced over the set; None: all."""
    batch_size: int = 250
    """Images worked on together."""
    workers: int = 0
    """Processes that decode images; sets in memory need none."""


def _judge(o: Judging, tok: MultiScaleVQVAE) -> Evaluator:
    if o.batch_size < 1:
        raise ValueError(f"--batch-size is {o.batch_size}, expected at least 1")
    judge, line = load_evaluator(o.classifier, tok.config.image_channels, tok.image_size[0])
    if line:
        _warn(line)
    return judge


def _warn(line: str) -> None:
    print(f"varmini: warning: {' '.join(line.split())}", file=sys.stderr)


def _real_images(o: Judging, tok: MultiScaleVQVAE, split: str = "test") -> Any:
    """Images as the tokenizer reads them, from the centre; ValueError when their size differs."""
    data = o.data or bed(tok)
    dataset = load_images(
        data, split, limit=o.limit, size=tok.image_size[0], channels=tok.config.image_channels
    )
    if isinstance(dataset, LazyImages):
        dataset.train = False  # a reference is measured on centre crops
    return dataset


@dataclass(frozen=True)
class EvaluateTokenizer:
    """Measures reconstructions of test images; appends a row to a CSV file."""

    judging: Annotated[Judging, Flat] = Judging()
    tokenizer: str = "cifar10"
    """Tokenizer: a shipped name, a folder, or a hub id."""
    out: Path = Path("out/evaluation-tokenizer.csv")
    """CSV file that gets a row more."""


def evaluate_tokenizer(args: Sequence[str], prog: str) -> None:
    """`varmini evaluate tokenizer`."""
    o = parse(EvaluateTokenizer, args, prog)
    _csv(o.out, "tokenizer")
    tok = MultiScaleVQVAE.from_pretrained(o.tokenizer).to(device())
    judge = _judge(o.judging, tok)
    dataset = _real_images(o.judging, tok)
    check_samples(len(dataset), judge.features, f"{dataset.name}, test")
    with autocast():
        figures = measure_tokenizer(tok, dataset, judge, o.judging.batch_size, o.judging.workers)
    if "fid" in figures:  # of reconstructions, the field says
        figures["rfid"] = figures.pop("fid")
    about = {"tokenizer": o.tokenizer, "data": dataset.name, "classifier": judge.about}
    report(o.out, about, figures)
    print(f"wrote {o.out}")


@dataclass(frozen=True)
class EvaluateSamples:
    """Draws samples of every class and compares them with real images; a CSV row for each --cfg.

    The same command goes on with a stopped draw; torchrun shares it among processes. The field's
    protocol: 50 samples a class of ImageNet against ADM's reference file.
    """

    judging: Annotated[Judging, Flat] = Judging()
    var: str = "cifar10"
    """Transformer: a shipped name, a folder, or a hub id."""
    tokenizer: str | None = None
    """Its tokenizer; None: the folder `tokenizer` beside it, or the shipped one of that name."""
    per_class: int | None = None
    """Samples a class; None: 50 for 1,000 classes and more, else 100. Distances are comparable only
    between equal numbers."""
    cfg: tuple[float, ...] = (1.5,)
    """Guidance at the last scale, one evaluation each."""
    top_k: int = 900
    """Draw from the so many likeliest tokens; 0: all."""
    top_p: float = 0.96
    """Draw from the likeliest tokens that hold this share of the probability; 0 or 1: all."""
    seed: int = 0
    """The same seed gives the same pictures; every picture has its own random numbers."""
    candidates: int = 1
    """Rejection sampling (-re): draw so many for each sample and keep the one whose class the
    rejector is surest of, a share of 1 / candidates; 1: no rejection."""
    rejector: str | None = None
    """Who rejects: "torchvision:<network>", a shipped classifier or a folder; not the judge."""
    reference: Path | None = None
    """.npz file with mu and sigma (pytorch-fid, ADM), images arr_0, or both; None: the test images
    of --data."""
    split: Literal["train", "test"] = "test"
    """Part of --data that is the reference."""
    save_reference: Path | None = None
    """.npz file to keep the reference's statistics in, for --reference."""
    samples: Path = Path("out/samples")
    """Folder that gets a folder for each draw, with samples.npz for the ADM evaluator."""
    out: Path = Path("out/evaluation-samples.csv")
    """CSV file that gets the rows."""


def _rejector(o: EvaluateSamples, channels: int, classes: int) -> Evaluator | None:
    if o.candidates == 1 and o.rejector is None:
        return None
    if o.candidates < 2 or o.rejector is None:
        raise ValueError(
            f"--candidates is {o.candidates} and --rejector {o.rejector}: rejection needs at least "
            f"2 candidates and a classifier"
        )
    rejector, _ = load_evaluator(o.rejector, channels, 0)
    if rejector.classes != classes:
        raise ValueError(
            f"rejector {o.rejector!r} tells {rejector.classes} classes apart, the model draws "
            f"{classes}: name a fitting --rejector"
        )
    return rejector


def _reference(
    o: EvaluateSamples, judge: Evaluator, tok: MultiScaleVQVAE
) -> Callable[[], Reference]:
    """What makes the reference. Files are read and counts checked now, images are seen later."""
    if o.reference is not None:
        loaded = load_reference(o.reference, judge, o.judging.batch_size)
        return lambda: loaded
    dataset = _real_images(o.judging, tok, o.split)
    name = f"{len(dataset)} {o.split} images of {dataset.name}"
    check_samples(len(dataset), judge.features, name)
    if isinstance(dataset, LazyImages):
        name += ", shorter side 1.125 x size, centre"

    def compute() -> Reference:
        stream = in_order(dataset, o.judging.batch_size, o.judging.workers)
        return reference_of(judge, (images for images, _ in stream), len(dataset), name)

    return compute


def evaluate_samples(args: Sequence[str], prog: str) -> None:
    """`varmini evaluate samples`."""
    o = parse(EvaluateSamples, args, prog)
    distributed.start()
    main, judge, reference = distributed.is_main(), None, None
    with distributed.together():  # what is wrong is told once, and before any long work
        var, tok, _ = load_pair(o.var, o.tokenizer)
        classes, channels = var.config.num_classes, tok.config.image_channels
        per_class = o.per_class if o.per_class is not None else 50 if classes >= 1000 else 100
        rejector = _rejector(o, channels, classes)
        models = (weights_checksum(var), weights_checksum(tok), classes, per_class)
        draws = [
            Draw(
                *models,
                cfg=cfg,
                top_k=o.top_k,
                top_p=o.top_p,
                seed=o.seed,
                candidates=o.candidates,
                rejector=rejector.about if rejector else "",
                precision=str(precision()),
            )
            for cfg in o.cfg
        ]
        if main:
            _csv(o.out, "var")
            check_writable(o.samples / "draw.json")
            if o.save_reference is not None:
                check_writable(o.save_reference)
            judge = _judge(o.judging, tok)
            check_samples(classes * per_class, judge.features, f"--per-class {per_class}")
            reference = _reference(o, judge, tok)
            if rejector and rejector.about == judge.about:
                _warn("the judge itself rejects, so its figures flatter: name another --rejector")
    files = [
        draw_samples(
            var,
            tok,
            draw,
            o.samples,
            batch_size=o.judging.batch_size,
            reject=(lambda x: rejector(x)[1]) if rejector else None,
        )
        for draw in draws
    ]
    if not main:
        return
    known = reference()
    if o.save_reference is not None:
        known.save(o.save_reference, judge)
        print(f"wrote {o.save_reference}")
    for draw, file in zip(draws, files):
        images = (to_channels_first(x) for x in npz.read_images(file, o.judging.batch_size))
        results = measure(judge, images, draw.labels, known, num_classes=classes, seed=draw.seed)
        about = {"var": o.var, "network": judge.about, "reference": known.about}
        about |= {k: getattr(draw, k) for k in ("per_class", "cfg", "seed", "top_k", "top_p")}
        about |= {"candidates": draw.candidates, "rejector": draw.rejector}
        report(o.out, about, results)
        print(f"wrote {file}")
    print(f"wrote {o.out}")
