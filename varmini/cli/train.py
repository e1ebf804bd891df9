"""`varmini train ...`: what leaves a model in a folder."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Self

import tyro

from ..runtime import distributed
from ..runtime.machine import provenance
from ..training import classifier, train_tokenizer, train_var
from ..training.configs import ClassifierTraining, TokenizerTraining, VARTraining
from ..training.presets import PRESETS, preset
from .models import Flat

TRAINING = {"tokenizer": train_tokenizer, "var": train_var, "classifier": classifier}
PresetName = Annotated[
    str, tyro.conf.arg(help=f"Where the defaults below come from: {', '.join(PRESETS)}.")
]


@dataclass(frozen=True)
class TrainTokenizer:
    """Trains stage 1, the multi-scale tokenizer, from scratch. Ctrl-C saves; --resume goes on."""

    config: Annotated[TokenizerTraining, Flat]
    out: Path  # Folder for the model, log.csv, run.json and the training state.
    preset: PresetName = "fashion"
    resume: bool = False  # Go on exactly where the run in --out stopped.
    overwrite: bool = False  # Replace the run in --out.
    stage: ClassVar[str] = "tokenizer"

    @classmethod
    def start(cls, args: Sequence[str]) -> Self:
        """The preset's options. Its name is read ahead of the parser, as all defaults follow it."""
        name, stage = cls.preset, cls.stage
        for word, following in zip(args, [*args[1:], name]):
            key, _, value = word.partition("=")
            if key == "--preset":
                name = value or following
        config = getattr(preset(name), stage)
        if config is None:
            those = ", ".join(n for n, p in PRESETS.items() if getattr(p, stage) is not None)
            raise ValueError(f"preset {name!r} has no {stage}, expected one of: {those}")
        own = Path("runs", name, "tokenizer")
        if stage == "var" and (own / "config.json").exists():
            config = dataclasses.replace(config, tokenizer=str(own))
        return cls(config=config, out=Path("runs", name, stage), preset=name)

    def __call__(self) -> None:
        train = TRAINING[self.stage].train
        folder = train(self.config, self.out, overwrite=self.overwrite, resume=self.resume)
        if distributed.is_main():
            told = "{hardware}; processes: {processes}, threads: {threads}; products in {precision}"
            print(told.format(**provenance()) + ", weights in float32")
            print(f"wrote {folder}:")
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                print(f"  {path.relative_to(folder)}  {path.stat().st_size / 1e6:.1f} MB")


@dataclass(frozen=True)
class TrainVar(TrainTokenizer):
    """Trains stage 2, the transformer, on a tokenizer's maps. Ctrl-C saves; --resume goes on."""

    config: Annotated[VARTraining, Flat]
    stage: ClassVar[str] = "var"


@dataclass(frozen=True)
class TrainClassifier(TrainTokenizer):
    """Trains the small classifier behind the perceptual loss and the metrics."""

    config: Annotated[ClassifierTraining, Flat]
    preset: PresetName = "cifar10"
    stage: ClassVar[str] = "classifier"
