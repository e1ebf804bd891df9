"""`varmini train ...` and `varmini demo`: what leaves a model in a folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..training.configs import ClassifierTraining, TokenizerTraining, VARTraining
from ..training.presets import PRESETS, preset
from .main import parse
from .models import Flat

PresetName = Annotated[
    str, tyro.conf.arg(help=f"Where the defaults below come from: {', '.join(PRESETS)}.")
]


@dataclass(frozen=True)
class TrainTokenizer:
    """Trains stage 1, the multi-scale tokenizer, from scratch. Ctrl-C saves; --resume goes on."""

    config: Annotated[TokenizerTraining, Flat]
    out: Path
    """Folder for the model, log.csv, run.json and the training state."""
    preset: PresetName = "fashion"
    resume: bool = False
    """Go on exactly where the run in --out stopped."""
    overwrite: bool = False
    """Replace the run in --out."""


@dataclass(frozen=True)
class TrainVAR(TrainTokenizer):
    """Trains stage 2, the transformer, on a tokenizer's maps. Ctrl-C saves; --resume goes on."""

    config: Annotated[VARTraining, Flat]


@dataclass(frozen=True)
class TrainClassifier:
    """Trains the small classifier behind the perceptual loss and the metrics."""

    config: Annotated[ClassifierTraining, Flat]
    out: Path
    """Folder for the model, log.csv and run.json."""
    preset: PresetName = "cifar10"
    resume: bool = False
    """Go on exactly where the run in --out stopped."""
    overwrite: bool = False
    """Replace the run in --out."""


def _asked_preset(args: Sequence[str], default: str) -> str:
    """The value of --preset, read ahead of the parser because it sets all other defaults."""
    for word, following in zip(args, [*args[1:], default]):
        if word.startswith("--preset="):
            return word.split("=", 1)[1]
        if word == "--preset":
            return following
    return default


def _training_options(cls: type, stage: str, args: Sequence[str], prog: str, usual: str) -> Any:
    name = _asked_preset(args, usual)
    config = getattr(preset(name), stage)
    if config is None:
        those = ", ".join(n for n, p in PRESETS.items() if getattr(p, stage) is not None)
        raise ValueError(f"preset {name!r} has no {stage}, expected one of: {those}")
    own = Path("runs", name, "tokenizer")
    if stage == "var" and (own / "config.json").exists():
        config = dataclasses.replace(config, tokenizer=str(own))
    return parse(cls, args, prog, cls(config=config, out=Path("runs", name, stage), preset=name))


def _name_files(folder: Path) -> None:
    """The last lines of a training: what lies in its folder."""
    print(f"wrote {folder}:")
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(f"  {path.relative_to(folder)}  {path.stat().st_size / 1e6:.1f} MB")


def _run(train: Callable[..., Path], config: Any, out: Path, **options: bool) -> None:
    """Trains; tells where, in which arithmetic, and what it left (one process does)."""
    from ..runtime import distributed
    from ..runtime.machine import provenance

    folder = train(config, out, **options)
    if distributed.is_main():
        facts = provenance()
        print(f"{facts['hardware']}; processes: {facts['processes']}, threads: {facts['threads']}; "
              f"products in {facts['precision']}, weights in float32")  # fmt: skip
        _name_files(folder)


def train_tokenizer(args: Sequence[str], prog: str) -> None:
    """`varmini train tokenizer`."""
    o = _training_options(TrainTokenizer, "tokenizer", args, prog, "fashion")
    from ..training.train_tokenizer import train

    _run(train, o.config, o.out, overwrite=o.overwrite, resume=o.resume)


def train_var(args: Sequence[str], prog: str) -> None:
    """`varmini train var`."""
    o = _training_options(TrainVAR, "var", args, prog, "fashion")
    from ..training.train_var import train

    _run(train, o.config, o.out, overwrite=o.overwrite, resume=o.resume)


def train_classifier(args: Sequence[str], prog: str) -> None:
    """`varmini train classifier`."""
    o = _training_options(TrainClassifier, "classifier", args, prog, "cifar10")
    from ..training.classifier import train

    _run(train, o.config, o.out, overwrite=o.overwrite, resume=o.resume)


@dataclass(frozen=True)
class Consolidate:
    """Makes the model of a run's newest checkpoint: config.json and model.safetensors.

    A run that ends does this itself; this is for one that was stopped or still goes on. The weights
    are the averaged ones. One process does it, on a CPU, also where FSDP2 split the run over many.
    """

    run: tyro.conf.Positional[Path]
    """The run's folder."""


def consolidate(args: Sequence[str], prog: str) -> None:
    """`varmini consolidate`."""
    o = parse(Consolidate, args, prog)
    from ..training.checkpoint import consolidate as make

    _name_files(make(o.run))


@dataclass(frozen=True)
class Demo:
    """Trains both stages on Fashion-MNIST, samples, and shows the shipped CIFAR-10 models.

    Its first line says how long that takes here; its last names the page to open.
    """

    out: Path = Path("out/demo")
    """Folder for the models, the pictures and index.html."""
    overwrite: bool = False
    """Replace the demo in --out."""
    tiny: bool = False
    """A few steps of toy networks, only to try the machinery."""


def demo(args: Sequence[str], prog: str) -> None:
    """`varmini demo`."""
    o = parse(Demo, args, prog)
    from .demo.run import run_demo

    run_demo(o.out, overwrite=o.overwrite, tiny=o.tiny)
