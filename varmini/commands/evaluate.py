"""`varmini evaluate ...` and `varmini data`: what ends in numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from .. import engine
from ..classifier import Classifier
from ..cli import parse
from ..data import EMBEDDED, KNOWN, NAMES, SUBSETS, find_parquet, load_images
from ..pretrained import write_atomic
from ..sources import parquet_files
from ..tokenizer import MultiScaleVQVAE
from .draw import bed, load_pair


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
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, row])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.getvalue().encode())


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
        raise ValueError(f"{path} holds other columns than this result: choose another --out")
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
    origin = engine.provenance()
    append_row(path, row | {k: origin[k] for k in ("date", "hardware", "command", "commit")})


def _csv(path: Path) -> Path:
    if path.suffix.lower() != ".csv" or path.is_dir():
        raise ValueError(f"--out {path} is no .csv file: name one, new or with earlier results")
    return path


def load_classifier(name: str | None, channels: int) -> Classifier:
    """The judging classifier; None means the shipped "cifar10" for colour, "fashion" for grey.

    Raises:
        ValueError: when it is unknown or reads images with another number of channels.
    """
    name = name or ("cifar10" if channels == 3 else "fashion")
    classifier = Classifier.from_pretrained(name).to(engine.device())
    if classifier.config.image_channels != channels:
        raise ValueError(
            f"classifier {name!r} reads {classifier.config.image_channels} channels, "
            f"the tokenizer draws {channels}: name a fitting --classifier"
        )
    return classifier


@dataclass(frozen=True)
class EvaluateTokenizer:
    """Measures reconstructions of test images; appends a row to a CSV file."""

    tokenizer: str = "cifar10"
    """Tokenizer: a shipped name, a folder, or a hub id."""
    data: str | None = None
    """Data set: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Judge: a shipped name or folder; None: "cifar10" for colour, "fashion" for grey."""
    limit: int | None = None
    """So many test images, evenly spaced over the set; None: all."""
    batch_size: int = 250
    """Images encoded together."""
    out: Path = Path("out/evaluation-tokenizer.csv")
    """CSV file that gets a row more."""


def evaluate_tokenizer(args: Sequence[str], prog: str) -> None:
    """`varmini evaluate tokenizer`."""
    o = parse(EvaluateTokenizer, args, prog)
    _csv(o.out)
    tok = MultiScaleVQVAE.from_pretrained(o.tokenizer).to(engine.device())
    dataset = _test_images(o.data, tok, o.limit)
    judge = load_classifier(o.classifier, tok.config.image_channels)
    from ..metrics import evaluate_tokenizer as measure

    with engine.autocast():
        results = measure(tok, dataset, judge, o.batch_size)
    report(
        o.out,
        {"tokenizer": o.tokenizer, "data": dataset.name, "classifier": _name(o, judge)},
        results,
    )
    print(f"wrote {o.out}")


def _name(options: Any, judge: Classifier) -> str:
    return options.classifier or ("cifar10" if judge.config.image_channels == 3 else "fashion")


def _test_images(data: str | None, tok: MultiScaleVQVAE, limit: int | None) -> Any:
    return load_images(
        data or bed(tok),
        "test",
        limit=limit,
        size=tok.image_size[0],
        channels=tok.config.image_channels,
    )


@dataclass(frozen=True)
class EvaluateSamples:
    """Draws samples of every class and compares them with test images; a CSV row for each --cfg."""

    var: str = "cifar10"
    """Transformer: a shipped name, a folder, or a hub id."""
    tokenizer: str | None = None
    """Its tokenizer; None: the folder `tokenizer` beside it, or the shipped one of that name."""
    data: str | None = None
    """Real images: a bed's name or a folder; None: the embedded set with as many channels."""
    classifier: str | None = None
    """Judge: a shipped name or folder; None: "cifar10" for colour, "fashion" for grey."""
    per_class: int = 100
    """Samples a class; the distances are comparable only between equal numbers."""
    cfg: tuple[float, ...] = (0.0, 1.5, 3.0)
    """Guidance at the last scale, one evaluation each."""
    top_k: int = 900
    """Draw from the so many likeliest tokens; 0: all."""
    top_p: float = 0.96
    """Draw from the likeliest tokens that hold this share of the probability; 0 or 1: all."""
    seed: int = 0
    """The same seed gives the same pictures."""
    limit: int | None = None
    """So many real images, evenly spaced over the set; None: all."""
    batch_size: int = 250
    """Images drawn together."""
    out: Path = Path("out/evaluation-samples.csv")
    """CSV file that gets the rows."""


def evaluate_samples(args: Sequence[str], prog: str) -> None:
    """`varmini evaluate samples`."""
    o = parse(EvaluateSamples, args, prog)
    _csv(o.out)
    var, tok, _ = load_pair(o.var, o.tokenizer)
    judge = load_classifier(o.classifier, tok.config.image_channels)
    dataset = _test_images(o.data, tok, o.limit)
    from ..metrics import evaluate_samples as measure

    for cfg in engine.progress(o.cfg, "guidance"):
        with engine.autocast():
            results = measure(
                var,
                tok,
                dataset,
                judge,
                per_class=o.per_class,
                cfg=cfg,
                seed=o.seed,
                top_k=o.top_k,
                top_p=o.top_p,
                batch_size=o.batch_size,
            )
        report(o.out, {"var": o.var, "data": dataset.name, "classifier": _name(o, judge)}, results)
    print(f"wrote {o.out}")


@dataclass(frozen=True)
class Data:
    """Lists the data sets and where each was found; with names or folders, their classes."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sets to open and to count, class by class."""
    root: Path | None = None
    """Folder with the full sets' parquet files; None: $VARMINI_DATA, then the hub."""


def data(args: Sequence[str], prog: str) -> None:
    """`varmini data`."""
    o = parse(Data, args, prog)
    if o.names:
        for name in o.names:
            _describe(name, o.root)
        return
    rows = [("name", "train", "test", "images", "found")]
    for name, (full, folder) in SUBSETS.items():
        counts = [_rows(parquet_files(EMBEDDED / folder, (s,))) for s in ("train", "test")]
        found = f"in data/{folder}" if counts[0] else "missing: run from a checkout"
        rows.append((name, *counts, _shape(full), found))
    for name, known in KNOWN.items():
        files = [find_parquet(name, split, o.root) for split in ("train", "test")]
        place = f"in {files[0][0].parent}" if files[0] else f"not here; from the hub: {known.hub}"
        rows.append((name, *map(_rows, files), _shape(name), place))
    rows.append(("imagenet", "", "", "3 channels", "from the hub: imagenet-1k, or --root FOLDER"))
    widths = [max(len(str(row[i])) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(f"{value!s:<{w}}" for value, w in zip(row, [*widths, 0])).rstrip())
    print(
        "Any folder with one folder of pictures per class, or with parquet files, works too: "
        "varmini data FOLDER"
    )


def _shape(name: str) -> str:
    known = KNOWN[name]
    side = known.size + 2 * known.padding
    return f"{known.channels}x{side}x{side}"


def _rows(files: Sequence[Path]) -> int | str:
    """Rows of parquet files, from their footers alone."""
    from pyarrow.parquet import ParquetFile

    return sum(ParquetFile(file).metadata.num_rows for file in files) or ""


def _describe(name: str, root: Path | None) -> None:
    import numpy as np

    for split in ("train", "test"):
        dataset = load_images(name, split, root=root if name in NAMES else None)
        counts = np.bincount(np.asarray(dataset.labels), minlength=len(dataset.classes))
        print(
            f"{dataset.name}, {split}: {len(dataset)} images of {dataset.channels} channels, "
            f"{dataset.size} pixels a side, {len(dataset.classes)} classes"
        )
        for label, (number, title) in enumerate(zip(counts, dataset.classes)):
            print(f"  {label:>4}  {title:<20} {number}")
