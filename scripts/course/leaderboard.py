"""The final project's leaderboard: one command trains, scores and adds a row; another checks rows.

    python scripts/course/leaderboard.py run "wider, 6 blocks" --var "--model.depth 6"
    python scripts/course/leaderboard.py score "varmini, preset fashion" FOLDER/tokenizer FOLDER/var
    python scripts/course/leaderboard.py check

`run` trains both stages on the live bed (`varmini train ... --preset fashion`, with the options in
--tokenizer and --var, and with the code of this checkout), leaves them in out/leaderboard/ and
scores them. `score` takes two folders that `varmini train` has left; what they cost is in their
log.csv, with which commit and on which machine in their run.json. Training may take `BUDGET`
seconds, both stages together.

A score is taken five times, each with other random seeds and 500 samples: the Frechet distance of
their features to those of the embedded test pictures, and the share that the evaluator takes for
the class asked for. The evaluator took part in no training. The interval is Student's over the five
draws of *one* model: it says nothing of another training of it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
TABLE = ROOT / "results" / "leaderboard.csv"
BUDGET, DRAWS, EACH = 600, 5, 50
"""Seconds of training; draws of a score; pictures of a class in each draw."""
COLUMNS = (
    "name", "frechet", "frechet_low", "frechet_high", "own_class", "own_class_low",
    "own_class_high", "train_seconds", "parameters", "images", "trained_by", "trained_commit",
    "trained_hardware", "threads", "seed", "options", "evaluator", "command", "commit", "hardware",
    "date",
)  # fmt: skip
COMMIT = re.compile("[0-9a-f]{12,40}")
EVALUATOR = "varmini's fashion evaluator, weights 668c3ab9"


def problems(row: dict[str, str]) -> list[str]:
    """What is wrong with a row of the table, as it stands in the file; empty if nothing is."""
    if tuple(row) != COLUMNS:
        odd = sorted(map(str, set(row) ^ set(COLUMNS))) or "their order"
        return [f"columns differ from those of the script: {odd}"]
    found = [f"{name} is empty" for name in COLUMNS if not row[name] and name != "options"]
    numbers = {}
    for name in COLUMNS[1:9] + ("images", "threads"):
        try:
            numbers[name] = float(row[name])
        except ValueError:
            numbers[name] = math.nan
    found += [f"{name} is {row[name]!r}, expected a number of 0 or more"
              for name, value in numbers.items() if not 0 <= value < math.inf]  # fmt: skip
    if found:
        return found
    for name in ("frechet", "own_class"):
        low, value, high = (numbers[name + end] for end in ("_low", "", "_high"))
        if not low <= value <= high or low == high:
            found.append(f"{name} is {value} with an interval of {low} to {high}")
    if numbers["own_class"] > 1:
        found.append(f"own_class is {row['own_class']}, expected a share of at most 1")
    if numbers["train_seconds"] > BUDGET:
        found.append(f"train_seconds is {row['train_seconds']}, the budget is {BUDGET}")
    if numbers["images"] != DRAWS * EACH * 10:
        found.append(f"images is {row['images']}, expected {DRAWS * EACH * 10}")
    for name in ("commit", "trained_commit"):
        if not COMMIT.fullmatch(row[name]):
            found.append(f"{name} is {row[name]!r}, expected a commit that others can check out")
    if row["evaluator"] != EVALUATOR:
        found.append(f"evaluator is {row['evaluator']!r}, expected {EVALUATOR!r}")
    if "leaderboard.py" not in row["command"]:
        found.append(f"command is {row['command']!r}, expected one of this script")
    try:
        datetime.fromisoformat(row["date"])
    except ValueError:
        found.append(f"date is {row['date']!r}, expected such as 2026-11-29T20:28:21+00:00")
    return found


def training_of(folder: Path) -> dict[str, object]:
    """What a run folder of `varmini train` says about itself: seconds, and its last session."""
    from varmini.runtime.tables import read_cells

    if missing := [name for name in ("run.json", "log.csv") if not (folder / name).is_file()]:
        raise ValueError(f"{folder} has no {missing[0]}: expected a run folder of `varmini train`")
    account = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    seconds = float(read_cells(folder / "log.csv")[-1]["seconds"])
    last = account["sessions"][-1]
    # Where a folder lies is that machine's affair.
    command = re.sub(r"(?<!\S)/\S*/(?=[^/\s]+/[^/\s]+)", "", last["command"])
    return last | {"command": command, "seconds": seconds, "seed": account["config"]["seed"]}


def score(
    name: str, tokenizer: Path, var: Path, cfg: float, options: list[str]
) -> dict[str, object]:
    """A row of the table: two trained networks, scored.

    Where their trainings differ, both are told; `problems` refuses what others could not repeat.
    """
    import torch

    from varmini import VAR, MultiScaleVQVAE, sample
    from varmini.data import load_images
    from varmini.evaluation.evaluators import classifier_evaluator
    from varmini.evaluation.metrics import frechet_distance
    from varmini.evaluation.statistics import interval
    from varmini.runtime.machine import provenance

    stages = [training_of(folder) for folder in (tokenizer, var)]
    tok, model = MultiScaleVQVAE.from_pretrained(tokenizer), VAR.from_pretrained(var)
    evaluator = classifier_evaluator("fashion", kind="evaluator")
    real = evaluator.all_of(load_images("fashion-subset", "test").images.split(500))[0]
    wanted = torch.arange(10).repeat(EACH)
    found: dict[str, list[float]] = {"frechet": [], "own_class": []}
    for draw in range(DRAWS):
        seeds = range(100 * draw, 100 * draw + 5)
        parts = [
            sample(model, tok, part, cfg=cfg, seed=s) for part, s in zip(wanted.chunk(5), seeds)
        ]
        features, probs = evaluator.all_of(parts)
        found["frechet"].append(frechet_distance(features, real))
        found["own_class"].append((probs.argmax(1) == wanted).float().mean().item())
    row: dict[str, object] = {"name": name}
    for key, values in found.items():
        ends = dict(zip(("", "_low", "_high"), (fmean(values), *interval(values))))
        row |= {key + end: round(value, 4) for end, value in ends.items()}
    told = {key: list(dict.fromkeys(str(stage[key]) for stage in stages)) for key in stages[0]}
    return row | {
        "train_seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "parameters": sum(p.numel() for net in (tok, model) for p in net.parameters()),
        "images": DRAWS * len(wanted), "trained_by": "; ".join(told["command"]),
        "trained_commit": " and ".join(told["commit"]),
        "trained_hardware": " and ".join(told["hardware"]),
        "threads": " and ".join(told["threads"]), "seed": " and ".join(told["seed"]),
        "options": " ".join([*options, *[f"--cfg {cfg:g}"] * (cfg != 1.5)]),
        "evaluator": evaluator.about, **{k: provenance()[k] for k in COLUMNS[-4:]},
    }  # fmt: skip


def train(args: argparse.Namespace, folder: Path) -> list[Path]:
    """Both stages by `varmini train`; their folders."""
    stages = [folder / "tokenizer", folder / "var"]
    more = [shlex.split(args.tokenizer), ["--tokenizer", str(stages[0]), *shlex.split(args.var)]]
    for stage, options in zip(stages, more):
        command = [sys.executable, "-m", "varmini", "train", stage.name, "--preset", "fashion"]
        command += ["--seed", str(args.seed), "--out", str(stage), "--overwrite", *options]
        subprocess.run(command, cwd=ROOT, check=True)
    return stages


def check(table: Path) -> int:
    """Prints what is wrong with a table; 1 if anything is."""
    from varmini.runtime.tables import read_cells

    if not table.exists():
        raise ValueError(f"no table {table}; `run` and `score` make one")
    rows = read_cells(table)
    wrong = [(i, told) for i, row in enumerate(rows, 2) for told in problems(row)]
    for line, told in wrong:
        print(f"{table.name}, line {line}: {told}", file=sys.stderr)
    print(f"{len(rows)} rows, {len(wrong)} problems")
    return int(bool(wrong) or not rows)


def add(args: argparse.Namespace) -> int:
    """Trains, if that is asked for, and adds a row; 1 if it may not stand in the table."""
    from varmini.runtime.machine import provenance
    from varmini.runtime.tables import read_cells, write_rows

    if not COMMIT.fullmatch(commit := str(provenance()["commit"])):
        raise ValueError(f"the commit of this code is {commit}: work in a git checkout and commit "
                         f"your change first, so that others can repeat the row")  # fmt: skip
    options = [f'--{k} "{getattr(args, k)}"' for k in ("tokenizer", "var") if getattr(args, k)]
    if args.what == "run":
        slug = re.sub(r"\W+", "-", args.name.lower()).strip("-")
        args.folders = train(args, ROOT / "out" / "leaderboard" / f"{slug}-{args.seed}")
    row = score(args.name, *args.folders, args.cfg, options)
    wrong = problems({key: str(value) for key, value in row.items()})
    print(json.dumps(row, indent=1))
    if wrong:
        print("not added: " + "; ".join(wrong), file=sys.stderr)
        return 1
    rows = [*(read_cells(args.table) if args.table.exists() else []), row]
    rows.sort(key=lambda row: float(row["frechet"]))
    write_rows(args.table, rows)
    print(f"added to {args.table}: rank {rows.index(row) + 1} of {len(rows)}")
    return 0


def main(words: list[str]) -> int:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("what", choices=["run", "score", "check"])
    parser.add_argument("name", nargs="?", default="", help="what the table calls it")
    parser.add_argument("folders", nargs="*", type=Path, help="score: tokenizer and transformer")
    for stage, such in (("tokenizer", "--lr 0.002"), ("var", "--model.depth 6")):
        about = f'run: options of `varmini train {stage}`, such as --{stage}="{such}"'
        parser.add_argument(f"--{stage}", default="", help=about)
    parser.add_argument("--seed", type=int, default=0, help="run: of both trainings")
    parser.add_argument("--cfg", type=float, default=1.5, help="guidance")
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args(words)
    given = bool(args.tokenizer or args.var)
    folders = {"run": 0, "score": 2, "check": 0}[args.what]
    named = bool(args.name) == (args.what != "check")
    if len(args.folders) != folders or not named or (given and args.what != "run"):
        parser.error(
            "expected: run NAME, with --tokenizer and --var for options of the trainings; "
            "score NAME TOKENIZER VAR; or check. A name of several words is quoted"
        )
    try:
        return check(args.table) if args.what == "check" else add(args)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"leaderboard.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
