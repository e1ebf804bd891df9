"""Kill and resume: SIGKILL at random moments, then the same command again, to the last bit.

One process imports torch and forks a child for every command, so that a kill costs a fraction of a
second. A kill falls by the clock, at any moment of the run, or by the hand of the run itself: in
the middle of a file drawn at random, which the child cuts short, or around a flush, a rename or a
removal.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import toy_world
from toy_world import tensors

from varmini.cli import evaluate as evaluation
from varmini.cli import main as cli
from varmini.cli import scaling, train  # noqa: F401  loaded before the forks
from varmini.evaluation import samples as sampling_run
from varmini.experiments.scaling import sweep
from varmini.runtime.files import file_checksum
from varmini.runtime.tables import read_cells
from varmini.training import token_sets, train_var

from .table import Tried

OFTEN = "--data toy --images 48 --batch-size 4 --held-out 5 --checkpoint-every 1 --log-every 3"
COMMANDS = {
    "train tokenizer": OFTEN + " --perceptual-network NET --adversarial 0.5 --revive-every 2 "
    "--model.sizes 1 2 --model.vocab-size 24 --model.width 32 --model.multipliers 1 1 "
    "--model.num-res-blocks 1 --model.patch 2 --model.norm-groups 8 --model.image-channels 1 "
    "--model.code-channels 4 --out OUT",
    "train var": OFTEN + " --tokenizer TOK --model.depth 2 --model.width 16 --model.heads 2 "
    "--model.drop-path 0.3 --accumulate 2 --muon-lr 0.01 --out OUT",
    "scaling": "--depths 1 2 --unit 8 --seeds 0 --images 24 --batch-size 4 --points 2 "
    "--held-out 5 --data toy --tokenizer TOK --out OUT --csv CSV",
    "evaluate samples": "--var VAR --classifier EVALUATOR --per-class 9 --batch-size 4 --top-k 0 "
    "--cfg 0 1.5 --samples SAMPLES --out CSV",
}
"""What is killed, on toys whose places stand in capitals."""


@dataclass
class Task:
    """A command that is killed."""

    name: str
    args: Callable[[Path], list[str]]
    result: Callable[[Path], dict]
    """What must be equal in the end, by name."""
    resume: bool = False
    """Whether going on needs --resume; else the same command does."""
    run: Callable[[Path], int] | None = None
    """Instead of a command."""


def prepare(folder: Path) -> list[Task]:
    """Makes the toy world in this process, before any fork, and the commands on it."""
    toy_world.install(setattr, {})
    toy_world.models(folder)
    toy_world.drawing_models(folder)
    sweep.fitted = toy_world.image_set
    sampling_run.SHARD = 4
    sweep.token_set = functools.partial(token_sets.token_set, shard=10)
    evaluation.load_images = lambda *a, **k: toy_world.image_set(*a[:2])
    tok, pair, evaluator = folder / "tok", folder / "pair", folder / "evaluator"

    def words(name: str, out: Path) -> list[str]:
        places = {"NET": folder / "net", "TOK": tok, "VAR": pair / "var", "EVALUATOR": evaluator,
                  "OUT": out, "CSV": out / "a.csv", "SAMPLES": out / "samples"}  # fmt: skip
        return [str(places.get(word, word)) for word in f"{name} {COMMANDS[name]}".split()]

    def cache(out: Path) -> int:
        model = train_var.MultiScaleVQVAE.from_pretrained(tok)
        for split in ("train", "test"):
            token_sets.token_set(model, "x", toy_world.image_set("toy", split), out, split,
                                 flip=True, batch_size=1, shard=2)  # fmt: skip
        return 0

    def task(called: str, name: str, result: Callable[[Path], dict], resume: bool = False) -> Task:
        return Task(called, functools.partial(words, name), result, resume)

    return [
        task("train tokenizer", "train tokenizer", weights_and("log.csv"), resume=True),
        task("train var", "train var", weights_and("log.csv"), resume=True),
        Task("token cache", lambda out: [], files("*.safetensors"), run=cache),
        task("scaling sweep", "scaling", weights_and("a.csv")),
        task("sharded evaluation", "evaluate samples", evaluated),
    ]


# ---------------------------------------------------------------------- what must be equal at last


def files(pattern: str) -> Callable[[Path], dict]:
    mark = tensors if pattern == "*.safetensors" else file_checksum
    return lambda out: {
        str(p.relative_to(out)): mark(p)
        for p in sorted(out.rglob(pattern))
        if p.is_file() and not p.name.startswith(".")
    }


def rows(path: Path) -> list[dict]:
    free = {"seconds", "date", "command", "commit"}
    return [{k: v for k, v in row.items() if k not in free} for row in read_cells(path)]


def weights_and(table: str) -> Callable[[Path], dict]:
    """Weights, averages, optimizer, random numbers, token maps, and a table."""
    return lambda out: files("*.safetensors")(out) | {"rows": rows(out / table)}


def evaluated(out: Path) -> dict:
    """Samples; a run that was killed after its row and started again adds the same rows again."""
    found = {tuple(row.items()) for row in rows(out / "a.csv")}
    return files("*.npz")(out) | files("*.png")(out) | {"rows": sorted(found)}


# ---------------------------------------------------------------------------- children and kills


def child(
    task: Task,
    out: Path,
    log: Path,
    cut: tuple[str, int, float] | None = None,
    count: Path | None = None,
    before: Callable[[], object] = int,
) -> int:
    """Runs the command in a forked process; returns its number at once.

    cut: as for `watch_writes`. count: a file for what that counted. before: called there.
    """
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = 70
    try:
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        random.seed(0)  # nothing uses these two, but their state is in the checkpoints
        np.random.seed(0)
        done = watch_writes(cut)
        before()
        again = task.resume and (out / "run.json").exists()
        code = task.run(out) if task.run else cli.main(task.args(out) + ["--resume"] * again)
        if count:
            count.write_text(json.dumps(done))
    except (ValueError, OSError) as error:  # of `run`; a command has its line by itself
        print(f"varmini: error: {error}", file=sys.stderr, flush=True)
        code = 2
    except BaseException:  # noqa: B902  a forked child must not run its parent's code
        traceback.print_exc()
    finally:
        os._exit(code)


def watch_writes(cut: tuple[str, int, float] | None) -> dict[str, int]:
    """Counts flushes, renames and removals, and kills this process in the one that `cut` names.

    cut: ("file", number, share) in the file of that number, when that share of it is written; or
    ("event", number, share) before the event of that number or, for a share above a half, after it.
    """
    done = {"event": 0, "file": 0}

    def at(event: Callable, *args, **options):
        found = os.fstat(args[0]) if event is fsync else None
        written = bool(found and stat.S_ISREG(found.st_mode))
        done["event"] += 1
        done["file"] += written
        if cut and done[cut[0]] == cut[1] and (written or cut[0] == "event"):
            if cut[0] == "file":
                os.truncate(args[0], int(found.st_size * cut[2]))
            elif cut[2] > 0.5:
                event(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return event(*args, **options)

    fsync, replace, unlink = os.fsync, os.replace, Path.unlink
    os.fsync = lambda fd: at(fsync, fd)
    os.replace = lambda a, b: at(replace, a, b)
    Path.unlink = lambda self, missing_ok=False: at(unlink, self, missing_ok=missing_ok)
    return done


def ended(number: int) -> int:
    """Waits for a child: its exit code, or minus the signal that ended it."""
    status = os.waitpid(number, 0)[1]
    return os.waitstatus_to_exitcode(status)


def kill_and_resume(seed: int, kills: int) -> list[Tried]:
    """At least `kills` kills, shared among the commands."""
    lines = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tasks = prepare(folder)
        for task in tasks:
            lines.append(one_task(task, folder, seed, -(-kills // len(tasks))))
            lines[-1].say()
    return lines


def one_task(task: Task, folder: Path, seed: int, kills: int) -> Tried:
    line = Tried("kill", f"SIGKILL during {task.name}, then resume", seed=seed)
    rng = random.Random(f"{seed} {task.name}")
    whole, log, count = (folder / f"{task.name}-{x}" for x in ("whole", "log", "count"))
    start = time.monotonic()
    if code := ended(child(task, whole, log, count=count)):
        line.fail(f"the uninterrupted run ended with {code}: {log.read_text()[-2000:]}")
        return line
    length, writes = time.monotonic() - start, json.loads(count.read_text())
    wanted, inside, out = task.result(whole), [], folder / f"{task.name}-killed"
    while line.tried < kills:
        log.write_text("")
        known: set[Path] = set()
        for _ in range(rng.randint(1, 4)):
            kind = rng.choice(("file", "event", None))
            cut = (kind, rng.randint(1, writes[kind]), rng.random()) if kind else None
            number = child(task, out, log, cut)
            if cut is None:
                time.sleep(rng.random() * length)
                os.kill(number, signal.SIGKILL)
            code = ended(number)
            left = set(out.rglob(".*.tmp"))
            inside += [path.name for path in left - known]
            known |= left
            line.tried += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                line.fail(f"ended with {code} after {line.tried} kills: {log.read_text()[-2000:]}")
                break
        for text in gone_on(task, out, log, wanted):
            line.fail(text)
        shutil.rmtree(out, ignore_errors=True)
    states = sum(name.startswith(".step-") for name in inside)
    line.note = f"{len(inside)} of them while a file was written, {states} of these a checkpoint"
    return line


def gone_on(task: Task, out: Path, log: Path, wanted: dict) -> Iterator[str]:
    """Runs a killed command to its end, and says what is wrong with that."""
    code = ended(child(task, out, log))
    told = log.read_text()
    if code:
        yield f"going on ended with {code}: {told[-2000:]}"
        return
    if "damaged" in told:
        yield f"a checkpoint was unreadable: {told[-2000:]}"
    found = task.result(out)
    if unequal := sorted(k for k in wanted | found if wanted.get(k) != found.get(k)):
        yield f"not equal to the uninterrupted run: {', '.join(unequal)}"
    if left := [str(p.relative_to(out)) for p in out.rglob(".*.tmp")]:
        yield f"left behind: {', '.join(left)}"
