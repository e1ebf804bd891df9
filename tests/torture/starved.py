"""Starved: full and read-only disks, no home, no temporary place, no memory, a dead worker.

Each case runs a command of `kills.prepare` in a forked child and looks at what it left. Disks are
small file systems in memory: where mounting is not allowed, these cases are not tried.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from varmini.cli import main as cli
from varmini.data import batches, load_images
from varmini.runtime import machine
from varmini.runtime.files import read_json
from varmini.runtime.pretrained import read_tensors
from varmini.runtime.tables import read_cells
from varmini.training import checkpoint, planner

from . import kills
from .kills import Task
from .table import Tried

SIZES = (8, 40, 100, 200, 300, 450, 700)
"""Kilobytes of the small disk."""


class NoDisk(Exception):
    """This process may not mount anything."""


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A small file system of its own at `folder`, which goes at the end.

    Raises:
        NoDisk: where mounting is not allowed.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise NoDisk
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder)


def remount(folder: Path, options: str) -> None:
    """Changes a file system of `disk`."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def run(task: Task, out: Path, log: Path, before: Callable[[], object] = int) -> tuple[int, str]:
    """The exit code of a command and what it printed; `before` is called in its process."""
    log.write_text("")
    number = kills.child(task, out, log, before=before)
    return kills.ended(number), log.read_text()


def wrong_end(code: int, told: str, *wanted: str) -> str:
    """What is wrong with an end that should be one clear line."""
    lines = [x for x in told.splitlines() if x.startswith("varmini: error: ")]
    if code != 2 or len(lines) != 1 or "Traceback" in told:
        return f"code {code}: {told[-1500:]}"
    return "" if all(w in lines[0] for w in wanted) else f"the line does not say {wanted}: {lines}"


def damaged(out: Path) -> list[str]:
    """Files under a final name that are not whole, and temporary files left behind."""
    readers = {".safetensors": read_tensors, ".csv": read_cells, ".json": read_json}
    readers[".npz"] = lambda path: np.load(path)["arr_0"]
    found = [str(path.relative_to(out)) for path in out.rglob("*.tmp")]
    for path in (p for p in out.rglob("*") if p.suffix in readers):
        try:
            readers[path.suffix](path)
        except Exception as error:
            found.append(f"{path.relative_to(out)}: {error}")
    if (state := out / "state").is_dir():
        checkpoint.newest(state)
    return found


def starve(seed: int) -> list[Tried]:
    """All cases."""
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tasks = kills.prepare(folder)
        for what, case in (
            ("memory does not suffice", no_memory),
            ("a process that decodes pictures dies", dead_worker),
            ("no home directory, no space for temporary files", bare),
            ("the output folder is read-only", read_only),
            ("the disk is full, then has room again", full_disk),
        ):
            line = Tried("starved", what, seed=seed)
            try:
                case(line, tasks, folder)
            except NoDisk:
                line.note = "not tried: no right to mount"
            line.say()
            lines.append(line)
    return lines


def full_disk(line: Tried, tasks: list[Task], folder: Path) -> None:
    """The disk fills at some file; with more room the same command ends as on an empty disk."""
    log = folder / "log"
    for task in tasks:
        whole = folder / "roomy" / task.name
        if (end := run(task, whole, log))[0]:
            line.fail(f"{task.name} with room: {end}")
            continue
        for size in SIZES:
            small, about = folder / f"small-{size}-{task.name}", f"{task.name}, {size} kB"
            out = small / "out"
            with disk(small, size):
                line.tried += 1
                end = run(task, out, log)
                if end[0] and (text := wrong_end(*end, "" if task.run else "space")):
                    line.fail(f"{about}: {text}")
                if bad := damaged(out) if out.exists() else []:
                    line.fail(f"{about}: {bad}")
                remount(small, "size=100m")
                if (end := run(task, out, log))[0]:
                    line.fail(f"{about}, with room again: {end}")
                elif task.result(out) != task.result(whole):
                    line.fail(f"{about}: not equal to the run with room")


def read_only(line: Tried, tasks: list[Task], folder: Path) -> None:
    """Nothing is lost in a folder that cannot be written, and the line names it."""
    for task in (t for t in tasks if not t.run):
        for earlier in (False, True):
            place = folder / f"locked-{earlier}-{task.name}"
            out = place / "out"
            with disk(place, 100_000):
                line.tried += 1
                if earlier:
                    run(task, out, folder / "log")
                before = kills.files("*")(out) if earlier else {}
                remount(place, "ro")
                if text := wrong_end(*run(task, out, folder / "log")):
                    line.fail(f"{task.name}: {text}")
                if (kills.files("*")(out) if out.exists() else {}) != before:
                    line.fail(f"{task.name}: a read-only folder changed")


def bare(line: Tried, tasks: list[Task], folder: Path) -> None:
    """Neither a home nor a place for temporary files is needed."""
    var, cached = str(folder / "pair" / "var"), ("XDG_CACHE_HOME", "XDG_CONFIG_HOME")

    def words(out: Path) -> list[str]:
        return ["sample", "--var", var, "--n", "1", "--out", str(out / "x.png")]

    def change() -> None:
        tempfile.tempdir = None
        os.environ |= {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
        for name in (*cached, "MPLCONFIGDIR", "HF_HOME"):
            os.environ.pop(name, None)

    for task in [*tasks, Task("sample", words, kills.files("*.png"))]:
        line.tried += 1
        end = run(task, folder / "bare" / str(line.tried), folder / "log", change)
        if end[0]:
            line.fail(f"{task.name}: {end}")


def dead_worker(line: Tried, tasks: list[Task], folder: Path) -> None:
    """A process that decodes pictures is killed."""
    line.tried += 1
    for i in range(40):
        path = folder / "faces" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)

    def go(args: list[str]) -> None:
        images = load_images(str(folder / "faces"), "train", size=8)
        for step, _ in zip(range(500), batches(images, 2, seed=0, workers=1)):
            if step == 2:
                children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
                os.kill(int(children.split()[0]), signal.SIGKILL)

    def work(out: Path) -> int:
        cli.run = go
        return cli.main([])

    end = run(Task("worker", list, dict, run=work), folder / "x", folder / "log")
    if text := wrong_end(*end, "--workers"):
        line.fail(text)


def no_memory(line: Tried, tasks: list[Task], folder: Path) -> None:
    """A batch that is too large is refused with one that fits; what runs out anyway is one line."""

    def poor() -> None:
        def check(what: str, option: str, count: int, each: float, fixed: float) -> None:
            machine.free_memory = lambda: fixed + 2.5 * each
            machine.check_memory(what, option, count, each, fixed)

        planner.check_memory = check

    def limited() -> None:
        # Optimizers import it, and an import without memory may fail in any way.
        importlib.import_module("torch._dynamo")
        machine.free_memory = lambda: 1e15  # the forecast is wrong
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    log = folder / "log"
    for task in tasks[:2]:
        out = folder / "poor" / task.name
        line.tried += 2
        end = run(task, out, log, poor)
        if text := wrong_end(*end, "4 images a step need about", "--batch-size 2 would fit"):
            line.fail(f"{task.name}, forecast: {text}")
        if out.exists():
            line.fail(f"{task.name}: a refused run left {out}")
        if text := wrong_end(*run(task, out, log, limited), "memory"):
            line.fail(f"{task.name}, limit: {text}")
        if out.exists() and (bad := damaged(out)):
            line.fail(f"{task.name}: {bad}")
    line.note = "on a GPU: not measured" if not torch.cuda.is_available() else ""
