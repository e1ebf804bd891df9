"""Starved: full and read-only disks, no home, no temporary place, no memory.

Each case runs a command of `kills.prepare` in a forked child and looks at what it left. Disks are
small file systems in memory: where mounting is not allowed, these cases are not tried.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from varmini.runtime.files import read_json
from varmini.runtime.pretrained import read_tensors
from varmini.runtime.tables import read_cells
from varmini.training import checkpoint

from . import kills
from .kills import Task
from .table import Tried

SIZES = (8, 40, 100, 200, 300, 450, 700)
"""Kilobytes of the small disk."""


class NoDisk(Exception):
    """This process may not mount anything."""


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A small file system of its own at `folder`, which goes at the end."""
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
    return kills.ended(kills.child(task, out, log, before=before)), log.read_text()


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
    found = [str(path) for path in out.rglob("*.tmp")]
    for path in (p for p in out.rglob("*") if p.suffix in readers):
        try:
            readers[path.suffix](path)
        except Exception as error:
            found.append(f"{path}: {error}")
    if (state := out / "state").is_dir():
        checkpoint.newest(state)
    return found


def starve(seed: int) -> list[Tried]:
    """All cases."""
    lines = []
    with tempfile.TemporaryDirectory() as place:
        tasks = kills.prepare(Path(place))
        for what, case in (
            ("memory does not suffice", no_memory),
            ("no home directory, no space for temporary files", bare),
            ("the output folder is read-only", read_only),
            ("the disk is full, then has room again", full_disk),
        ):
            lines.append(line := Tried("starved", what, seed=seed))
            try:
                for text in case(line, tasks, Path(place), Path(place) / "log"):
                    line.fail(text)
            except NoDisk:
                line.note = "not tried: no right to mount"
            line.say()
    return lines


def full_disk(line: Tried, tasks: list[Task], folder: Path, log: Path) -> Iterator[str]:
    """The disk fills at some file; with more room the same command ends as on an empty disk."""
    for task in tasks:
        whole = folder / "roomy" / task.name
        if (end := run(task, whole, log))[0]:
            yield f"{task.name} with room: {end}"
            continue
        for size in SIZES:
            small, about = folder / f"small-{size}-{task.name}", f"{task.name}, {size} kB"
            out = small / "out"
            with disk(small, size):
                line.tried += 1
                end = run(task, out, log)
                if end[0] and (text := wrong_end(*end, "" if task.run else "space")):
                    yield f"{about}: {text}"
                if bad := damaged(out):
                    yield f"{about}: {bad}"
                remount(small, "size=100m")
                if (end := run(task, out, log))[0]:
                    yield f"{about}, with room again: {end}"
                elif task.result(out) != task.result(whole):
                    yield f"{about}: not equal to the run with room"


def read_only(line: Tried, tasks: list[Task], folder: Path, log: Path) -> Iterator[str]:
    """Nothing is lost in a folder that cannot be written, and the line names it."""
    for task in (t for t in tasks if not t.run):
        for earlier in (False, True):
            place = folder / f"locked-{earlier}-{task.name}"
            out = place / "out"
            with disk(place, 100_000):
                line.tried += 1
                if earlier:
                    run(task, out, log)
                before = kills.files("*")(out)
                remount(place, "ro")
                if text := wrong_end(*run(task, out, log)):
                    yield f"{task.name}: {text}"
                if kills.files("*")(out) != before:
                    yield f"{task.name}: a read-only folder changed"


def bare(line: Tried, tasks: list[Task], folder: Path, log: Path) -> Iterator[str]:
    """Neither a home nor a place for temporary files is needed."""

    def words(out: Path) -> list[str]:
        var = str(folder / "pair" / "var")
        return ["sample", "--var", var, "--n", "1", "--out", str(out / "x.png")]

    def change() -> None:
        tempfile.tempdir = None
        os.environ |= {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME"):
            os.environ.pop(name, None)

    for task in [*tasks, Task("sample", words, kills.files("*.png"))]:
        line.tried += 1
        end = run(task, folder / "bare" / str(line.tried), log, change)
        if end[0]:
            yield f"{task.name}: {end}"


def no_memory(line: Tried, tasks: list[Task], folder: Path, log: Path) -> Iterator[str]:
    """Memory that runs out is one line, and leaves no damage."""

    def limited() -> None:
        # Optimizers import it, and an import without memory may fail in any way.
        importlib.import_module("torch._dynamo")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    for task in tasks[:2]:
        line.tried += 1
        out = folder / "limited" / task.name
        if text := wrong_end(*run(task, out, log, limited), "memory"):
            yield f"{task.name}: {text}"
        if bad := damaged(out):
            yield f"{task.name}: {bad}"
