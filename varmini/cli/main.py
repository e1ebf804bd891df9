"""The `varmini` command: finds the sub-command, reads its options, and turns errors into one line.

The options of each sub-command are a dataclass in this folder, with a typed config of
`training.configs` inside it where something is trained; tyro makes the parser, its help and its
messages out of them. What is imported here is light, so that `varmini --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TypeVar

Options = TypeVar("Options")

COMMANDS = {
    "demo": "train both stages on the live bed, sample, show the shipped models (about 5 minutes)",
    "train": "train a tokenizer, a transformer (var) or a classifier",
    "consolidate": "make a model of a run's newest checkpoint, also one that FSDP2 split",
    "sample": "draw images of given classes and save them as a grid",
    "reconstruct": "encode and decode images, from 1, 2, ... K scales",
    "inpaint": "redraw a part of an image, of any class or of a given one",
    "evaluate": "measure a tokenizer's reconstructions or a model's samples",
    "zeroshot": "measure in- and out-painting, edits, super-resolution and error repair",
    "scaling": "train one recipe at many sizes, fit power laws; goes on when stopped",
    "compare": "train and measure VAR, raster AR, MaskGIT and DiT on one bed",
    "plan": "count what a preset needs: parameters, FLOPs, memory, hours, cost",
    "bench": "measure speed and memory, in quick and plain form (15 minutes)",
    "data": "list the data sets: where each was found, how many images",
    "grade": "mark an assignment: one submission, or a class into a CSV file",
}
TARGETS = {
    "train": {
        "tokenizer": "stage 1: the multi-scale VQ-VAE",
        "var": "stage 2: the transformer over token maps",
        "classifier": "features for the perceptual loss and for the metrics",
    },
    "evaluate": {
        "tokenizer": "PSNR, codebook usage, Frechet distance of reconstructions",
        "samples": "class accuracy, Frechet distance, precision, recall of samples",
    },
    "compare": {
        "train": "autoencoders of one budget, a grid of learning rates, full runs of all methods",
        "measure": "quality of samples with its sampling error, parameters, FLOPs",
        "speed": "milliseconds an image, all methods in turn in one process",
    },
}
HOME = {"demo": "train", "consolidate": "train"}
HOME |= dict.fromkeys(("sample", "reconstruct", "inpaint"), "draw")
"""The module that a sub-command lives in, where it has not its name."""


def nearest(word: str, known: Sequence[str]) -> str:
    """The part "; did you mean 'x'?" of a message, or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(known)}"


def parse(cls: type[Options], args: Sequence[str], prog: str, default: object = None) -> Options:
    """Reads `args` into the dataclass `cls`, starting from `default` if one is given.

    Raises:
        SystemExit: with code 2 after tyro told what is wrong with an option, with 0 after --help.
    """
    import tyro

    start = {} if default is None else {"default": default}
    return tyro.cli(cls, args=list(args), prog=prog, **start)


def _choose(prog: str, args: Sequence[str], known: dict[str, str], title: str) -> str | None:
    """The sub-command that `args` begin with, or None after its help was printed."""
    word = args[0] if args else "--help"
    if word in known:
        return word
    if word not in ("-h", "--help"):
        raise ValueError(f"unknown command {word!r}{nearest(word, list(known))}")
    width = max(map(len, known)) + 2
    rows = "\n".join(f"  {name:<{width}}{text}" for name, text in known.items())
    usage = f"usage: {prog} <command> [options]\n\n{title}\n\n{rows}\n\n"
    usage += f"{prog} <command> --help shows the options with their defaults and units.\n"
    usage += "All take --device cuda, mps or cpu; by default the first of them that is here."
    print(usage, file=sys.stdout if args else sys.stderr)
    if not args:
        raise ValueError(f"{prog} needs a command: one of {', '.join(known)}")
    return None


def _take_device(args: Sequence[str]) -> list[str]:
    """`args` without `--device NAME`, which all commands know; `runtime.machine` reads it."""
    others, words = [], iter(args)
    for word in words:
        name, _, value = word.partition("=")
        if name == "--device":
            value = value or next(words, "")
            if not value or value.startswith("-"):
                raise ValueError("--device needs a name: cuda, mps or cpu")
            os.environ["VARMINI_DEVICE"] = value
        else:
            others.append(word)
    return others


def run(args: Sequence[str]) -> None:
    """Does what `args` (without the program's name) say.

    Raises:
        ValueError, OSError: what went wrong, in one line.
    """
    if args and args[0] == "--version":
        from .. import __version__

        print(f"varmini {__version__}")
        return
    name = _choose("varmini", args, COMMANDS, "Visual AutoRegressive modeling, made to be read.")
    if name is None:
        return
    prog, rest = f"varmini {name}", _take_device(args[1:])
    if name in TARGETS:
        target = _choose(prog, rest, TARGETS[name], COMMANDS[name].capitalize() + ".")
        if target is None:
            return
        name, prog, rest = f"{name}_{target}", f"{prog} {target}", rest[1:]
    home = importlib.import_module(f".{HOME.get(args[0], args[0])}", __package__)
    getattr(home, name)(rest, prog)


def fail(message: str, code: int = 2) -> int:
    """Prints `varmini: error: <message>` on one line of stderr and returns the exit code.

    A name in it may hold anything: what would steer a terminal is shown as an escape sequence.
    """
    line = " ".join(str(message).split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    print(f"varmini: error: {line}", file=sys.stderr)
    return code


def _what_is_missing(error: Exception) -> str:
    from ..runtime.machine import what_is_missing  # loads torch

    return what_is_missing(error)


def main(args: Sequence[str] | None = None) -> int:
    """The entry point: exit code 0, 2 after an error that is told in one line, 130 after Ctrl-C."""
    try:
        run(sys.argv[1:] if args is None else args)
    except KeyboardInterrupt:
        return fail("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        return 141
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except ModuleNotFoundError as error:
        if (error.name or "varmini").startswith("varmini"):
            raise
        return fail(
            f"the package {error.name!r} is not installed: run `make setup`, or "
            f"`pip install -e .` in varmini's folder"
        )
    except (ValueError, OSError) as error:
        return fail(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError, ImportError, TypeError) as error:
        if not (words := _what_is_missing(error) or _want_of_memory(error)):
            raise
        return fail(words)
    return 0


def _want_of_memory(error: Exception) -> str:
    """The line for an error that means too little memory; "" for any other."""
    if str(error).startswith("DataLoader worker"):  # noticed in the middle of a step
        return (
            "a process that decodes pictures died, perhaps for want of memory: lower "
            "--workers; what was saved before is intact"
        )
    # torch says it in words on a CPU, in a class of its own (a RuntimeError) on a GPU; a library
    # that no longer fits is an ImportError
    words = ("out of memory", "allocate memory", "not enough memory", "failed to map")
    if isinstance(error, MemoryError) or any(w in str(error).lower() for w in words):
        return (
            "memory ran out; what was saved before is intact: lower --batch-size, or for "
            "`train var` raise --accumulate or add --recompute"
        )
    return ""
