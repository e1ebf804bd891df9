"""Starved: full and read-only disks, no home, no temporary place, few files, no memory.

Each case runs a command of `kills.prepare` in a forked child and looks at what it left.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import random
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
from safetensors import safe_open

from varmini.cli import main as cli
from varmini.data import batches, load_images
from varmini.training import checkpoint

from . import kills
from .kills import Task
from .table import Tried

SIZES = (8, 40, 100, 200, 300, 450, 700)
"""Kilobytes of the small disk."""


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """A small file system of its own at `folder`; yields False where mounting is not allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


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
    found = []
    for path in (p for p in out.rglob("*") if p.is_file()):
        try:
            if path.name.endswith(".tmp"):
                raise ValueError("left behind")
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    for name in file.keys():
                        file.get_tensor(name)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".csv":
                with open(path, newline="") as file:
                    if any(None in r or None in r.values() for r in csv.DictReader(file)):
                        raise ValueError("a row is not whole")
            elif path.suffix == ".npz":
                np.load(path)["arr_0"]
        except Exception as error:
            found.append(f"{path.relative_to(out)}: {error}")
    if (state := out / "state").is_dir():
        checkpoint.newest(state)
    return found


def starve(seed: int, cases: int = 0) -> list[Tried]:
    """All cases; `cases` limits the sizes of the full disk, 0 takes all."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tasks = kills.prepare(folder)
        sizes = random.Random(seed).sample(SIZES, cases) if cases else SIZES
        lines = []
        for case in (
            lambda: no_memory(tasks, folder),
            lambda: dead_worker(folder),
            lambda: few_files(tasks[1], folder),
            lambda: bare(tasks, folder),
            lambda: read_only(tasks, folder),
            lambda: full_disk(tasks, folder, sizes),
        ):
            lines.append(case())
            lines[-1].seed = seed
            lines[-1].say()
    return lines


def full_disk(tasks: list[Task], folder: Path, sizes: tuple[int, ...]) -> Tried:
    """The disk fills at some file; with more room the same command ends as on an empty disk."""
    line = Tried("starved", "the disk is full, then has room again")  # at some file or other
    log = folder / "log"
    for task in tasks:
        whole = folder / "roomy" / task.name
        if (end := run(task, whole, log))[0]:
            line.fail(f"{task.name} with room: {end}")
            continue
        for size in sizes:
            small = folder / f"small-{size}-{task.name}"
            line.tried += 1
            with disk(small, size) as mounted:
                line.note = "on a tmpfs" if mounted else "by RLIMIT_FSIZE: no right to mount"
                out = small / "out"
                end = run(task, out, log, int if mounted else lambda size=size: limit_files(size))
                if end[0] and (text := wrong_end(*end, "" if task.run else "space" if mounted
                                                 else "")):  # fmt: skip
                    line.fail(f"{task.name}, {size} kB: {text}")
                if bad := damaged(out) if out.exists() else []:
                    line.fail(f"{task.name}, {size} kB: {bad}")
                if mounted:
                    remount(small, "size=100m")
                if (end := run(task, out, log))[0]:
                    line.fail(f"{task.name}, {size} kB, with room again: {end}")
                elif task.result(out) != task.result(whole):
                    line.fail(f"{task.name}, {size} kB: not equal to the run with room")
            shutil.rmtree(small, ignore_errors=True)
    return line


def limit_files(kilobytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, kilobytes * 1024))


def read_only(tasks: list[Task], folder: Path) -> Tried:
    """Nothing is lost in a folder that cannot be written, and the line names it."""
    line = Tried("starved", "the output folder is read-only")
    for task in (t for t in tasks if not t.run):
        for earlier in (False, True):
            place = folder / f"locked-{earlier}-{task.name}"
            line.tried += 1
            with disk(place, 100_000) as mounted:
                out = place / "out"
                if earlier:
                    run(task, out, folder / "log")
                before = kills.files("*")(out) if earlier else {}
                lock(place, mounted, True)
                end = run(task, out, folder / "log")
                lock(place, mounted, False)
                if text := wrong_end(*end):
                    line.fail(f"{task.name}: {text}")
                if (kills.files("*")(out) if out.exists() else {}) != before:
                    line.fail(f"{task.name}: a read-only folder changed")
            line.note = "a read-only mount" if mounted else "by permissions"
            shutil.rmtree(place, ignore_errors=True)
    return line


def lock(place: Path, mounted: bool, closed: bool) -> None:
    if mounted:
        remount(place, "ro" if closed else "rw")
    else:
        for path in (place, *place.rglob("*")):
            if path.is_dir():
                path.chmod(0o555 if closed else 0o755)


def bare(tasks: list[Task], folder: Path) -> Tried:
    """Neither a home nor room in the temporary place is needed."""
    line = Tried("starved", "no home directory, no space for temporary files")
    pair = folder / "pair"
    draw = Task("sample", lambda out: ["sample", "--var", str(pair / "var"), "--n", "1", "--out",
                                       str(out / "x.png")], kills.files("*.png"))  # fmt: skip
    full = folder / "full"
    with disk(full, 4) as mounted:
        if mounted:
            with contextlib.suppress(OSError):
                (full / "fill").write_bytes(bytes(100_000))
        for task in [*tasks, draw]:
            for home, place in (("/nonexistent", None), (None, str(full)), ("/proc", str(full))):
                if place and not mounted:
                    place = str(folder / "nowhere")

                def change(home=home, place=place) -> None:
                    tempfile.tempdir = None
                    for name, value in (("HOME", home), ("TMPDIR", place)):
                        if value:
                            os.environ[name] = value
                    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "HF_HOME"):
                        os.environ.pop(name, None)

                out = folder / "bare" / f"{line.tried}"
                line.tried += 1
                end = run(task, out, folder / "log", change)
                if end[0]:
                    line.fail(f"{task.name}, HOME {home}, TMPDIR {place}: {end}")
    return line


def few_files(task: Task, folder: Path) -> Tried:
    """With few open files allowed a run ends well or in one line."""
    line = Tried("starved", "few files may be open")
    for limit in range(3, 16):
        def change(limit=limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        out = folder / "few" / str(limit)
        line.tried += 1
        end = run(task, out, folder / "log", change)
        if end[0] and (text := wrong_end(*end)):
            line.fail(f"limit {limit}: {text}")
        if out.exists() and (bad := damaged(out)):
            line.fail(f"limit {limit}: {bad}")
    return line


def dead_worker(folder: Path) -> Tried:
    """A process that decodes pictures is killed."""
    line = Tried("starved", "a process that decodes pictures dies", tried=1)
    for i in range(40):
        path = folder / "faces" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(path)

    def work(out: Path) -> int:
        def go() -> None:
            stream = batches(load_images(str(folder / "faces"), "train", size=8), 2, seed=0,
                             workers=1)  # fmt: skip
            for _, step in zip(stream, range(500)):
                if step == 2:
                    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
                    os.kill(int(children.split()[0]), signal.SIGKILL)

        cli.run = lambda args: go()
        return cli.main([])

    end = run(Task("worker", list, dict, run=work), folder / "x", folder / "log")
    if text := wrong_end(*end, "--workers"):
        line.fail(text)
    return line


def no_memory(tasks: list[Task], folder: Path) -> Tried:
    """Memory that runs out is told in one line, and what was written before is whole."""
    line = Tried("starved", "memory does not suffice")
    log = folder / "log"
    for task in tasks[:2]:
        def limited() -> None:
            # Optimizers import it, and an import without memory may fail in any way.
            importlib.import_module("torch._dynamo")
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            most = pages * resource.getpagesize() + 2**20
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

        out = folder / "poor" / task.name
        line.tried += 1
        end = run(task, out, log, limited)
        if text := wrong_end(*end, "memory"):
            line.fail(f"{task.name}, limit: {text}")
        if out.exists() and (bad := damaged(out)):
            line.fail(f"{task.name}: {bad}")
    line.note = "on a GPU: not measured" if not torch.cuda.is_available() else ""
    return line
