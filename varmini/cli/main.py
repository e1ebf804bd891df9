"""The `varmini` command: finds the sub-command, reads its options, and turns errors into one line.

What is imported here is light, so that `varmini --help` answers at once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__

COMMANDS = {
    "demo": "train both stages on the live bed, sample, show the shipped models",
    "train tokenizer": "stage 1: the multi-scale VQ-VAE",
    "train var": "stage 2: the transformer over token maps",
    "train classifier": "features for the perceptual loss and for the metrics",
    "sample": "draw images of given classes and save them as a grid",
    "reconstruct": "encode and decode images, from 1, 2, ... K scales",
    "inpaint": "redraw a part of an image, of any class or of a given one",
    "evaluate tokenizer": "PSNR, codebook usage, Frechet distance of reconstructions",
    "evaluate samples": "class accuracy, Frechet distance, precision, recall of samples",
    "zeroshot": "measure in- and out-painting, edits, super-resolution and error repair",
    "scaling": "train one recipe at many sizes, fit power laws; goes on when stopped",
    "compare": "train and draw any system of the family on one bed, or all of them",
    "plan": "count what a preset needs: parameters, FLOPs, memory, hours, cost",
    "bench": "measure speed and memory, in quick and plain form (15 minutes)",
    "data": "list the data sets: where each was found, how many images",
    "grade": "mark an assignment: one submission, or a class into a CSV file",
}
"""Each command is the class of that name: `train var` is TrainVar."""
HOME = {"demo": "demo.run", **dict.fromkeys(("sample", "reconstruct", "inpaint"), "draw")}
"""The module that a command lives in, where it has not the name of the command's first word."""


def run(args: Sequence[str]) -> None:
    """Does what `args` (without the program's name) say.

    Raises:
        ValueError, OSError: what went wrong, in one line.
        SystemExit: with code 2 after argparse or tyro told what is wrong, with 0 after --help.
    """
    found, words = _parser().parse_known_args(args)
    if found.device is not None:
        os.environ["VARMINI_DEVICE"] = found.device  # `runtime.machine` reads it
    home = found.command.split()[0]
    module = importlib.import_module(f".{HOME.get(home, home)}", __package__)
    command = getattr(module, found.command.title().replace(" ", ""))
    import tyro

    start = {"default": command.start(words)} if hasattr(command, "start") else {}
    tyro.cli(command, args=words, prog=f"varmini {found.command}", **start)()


def _parser() -> argparse.ArgumentParser:
    """Finds the command, and takes out `--device`, which all of them know; the rest is tyro's."""
    parser = argparse.ArgumentParser(
        "varmini",
        usage="varmini COMMAND [options]",
        description="Visual AutoRegressive modeling, made to be read.",
        epilog="varmini COMMAND --help shows the options with their defaults and units. All take "
        "--device cuda, mps or cpu; by default the first of them that is here.",
    )
    parser.add_argument("--version", action="version", version=f"varmini {__version__}")
    tops = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    groups = {"": tops}
    for command, text in COMMANDS.items():
        first, _, second = command.rpartition(" ")
        if first not in groups:
            seconds = ", ".join(c.split()[1] for c in COMMANDS if c.startswith(f"{first} "))
            usage = f"varmini {first} TARGET [options]"
            group = tops.add_parser(first, prog="varmini", usage=usage, help=seconds)
            groups[first] = group.add_subparsers(metavar="TARGET", required=True)
        plain = dict(prog="varmini", add_help=False, allow_abbrev=False)
        usage = f"varmini {command} [options]"
        leaf = groups[first].add_parser(second, usage=usage, help=text, **plain)
        leaf.add_argument("--device", metavar="NAME")
        leaf.set_defaults(command=command)
    return parser


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
    except (ValueError, OSError) as error:
        return fail(str(error) or type(error).__name__)
    except (MemoryError, RuntimeError, ImportError, TypeError) as error:
        if not (words := _explained(error)):
            raise
        return fail(words)
    return 0


def fail(message: str, code: int = 2) -> int:
    """Prints `varmini: error: <message>` on one line of stderr and returns the exit code.

    A name in it may hold anything: what would steer a terminal is shown as an escape sequence.
    """
    line = " ".join(str(message).split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    print(f"varmini: error: {line}", file=sys.stderr)
    return code


def _explained(error: Exception) -> str:
    """The line for an error of the machine or the install; "" for a defect of ours."""
    if isinstance(error, ModuleNotFoundError):
        ours = (error.name or "varmini").startswith("varmini")
        setup = "run `make setup`, or `pip install -e .` in varmini's folder"
        return "" if ours else f"the package {error.name!r} is not installed: {setup}"
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
    from ..runtime.machine import what_is_missing  # loads torch

    return what_is_missing(error)
