"""What several sub-commands share: models and their class names, files to write, warnings."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ..data import class_names as known_names
from ..model.tokenizer import MultiScaleVQVAE
from ..model.transformer import VAR
from ..plots.images import save
from ..runtime.files import check_writable, read_json
from ..runtime.machine import device
from ..runtime.pretrained import resolve_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Flat = tyro.conf.arg(name="")
"""Options of a nested dataclass without its name before them."""


@dataclass(frozen=True)
class Pair:
    """A transformer and its tokenizer."""

    var: str = "cifar10"  # Transformer: a shipped name, a folder, or a hub id.
    tokenizer: str | None = None
    """Its tokenizer; None: the folder `tokenizer` beside it, or the shipped one of that name."""

    def load(self) -> tuple[VAR, MultiScaleVQVAE, tuple[str, ...]]:
        """Both models on the device, and the names of the classes."""
        folder = resolve_folder(self.var, VAR.kind)
        beside = folder.resolve().parent / "tokenizer"
        own = beside if (beside / "config.json").exists() else self.var
        tok = MultiScaleVQVAE.from_pretrained(self.tokenizer or own)
        model = VAR.from_pretrained(folder)
        return model.to(device()), tok.to(device()), class_names(folder, model, tok)


def class_names(folder: Path, var: VAR, tok: MultiScaleVQVAE) -> tuple[str, ...]:
    """The names of a transformer's classes: those of the data in its run.json, else of our bed."""
    data = bed(tok)
    try:
        if (folder / "run.json").exists():
            config = read_json(folder / "run.json").get("config")
            data = str(config.get("data", data)) if isinstance(config, dict) else data
        classes = known_names(data)
    except (ValueError, OSError):  # damaged or out of reach by now: numbers still do
        return ()
    return classes if len(classes) == var.config.num_classes else ()


def bed(tok: MultiScaleVQVAE) -> str:
    """The embedded set that a tokenizer's images look like."""
    return "fashion-subset" if tok.config.image_channels == 1 else "cifar10-subset"


def class_label(word: str, names: Sequence[str], num_classes: int) -> int:
    """The label that `word` means: a class name, a number, or "none" (the null class).

    In names only letters and digits count, in any case: "t-shirt/top" is "T - shirt / top".

    Raises:
        ValueError: for any other word, naming the nearest class.
    """
    if word.lower() == "none":
        return num_classes
    low = [_bare(name) for name in names]
    if _bare(word) in low:  # first, for a class may be called "7"
        return low.index(_bare(word))
    expected = f"expected 0 to {num_classes - 1}"
    if word.lstrip("-").isdecimal():
        if not 0 <= int(word) < num_classes:
            raise ValueError(
                f"label {word} is outside the classes, {expected}, a class name, or none"
            )
        return int(word)
    known = [*(name.lower() for name in names), "none"]
    hint = f"expected one of {', '.join(known)}"
    if close := difflib.get_close_matches(word.lower(), known, n=1):
        hint = f"did you mean {close[0]!r}?"
    elif not names:
        hint = f"this model's class names are unknown, {expected}"
    raise ValueError(f"unknown class {word!r}; {hint}")


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower())) or name


def caption(label: int, names: Sequence[str]) -> str:
    """What stands below a picture of class `label`."""
    return names[label] if label < len(names) else "no class" if names else str(label)


def output_file(path: Path, suffix: str, overwrite: bool) -> Path:
    """`path`, checked before any work is done for it.

    Raises:
        ValueError: when it ends otherwise, exists and may not be replaced, or cannot be written.
    """
    if path.suffix.lower() != suffix:
        raise ValueError(f"--out {path} does not end in {suffix}: name a {suffix} file")
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder: name a {suffix} file")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: add --overwrite to replace it, or choose another --out")
    return check_writable(path)


def save_picture(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all, and says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
    print(f"wrote {path}")


def warn(line: str) -> None:
    """Prints `varmini: warning: <line>` on stderr."""
    print(f"varmini: warning: {' '.join(line.split())}", file=sys.stderr)
