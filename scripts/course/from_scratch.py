"""Exports notebooks/var_from_scratch.ipynb as one file, or runs its whole training.

    python scripts/course/from_scratch.py export                # out/var_from_scratch.py
    python scripts/course/from_scratch.py train --kind "AVX2"   # data/models/scratch/

The exported file holds the method: cells tagged `proof` or `picture` stay in the notebook, and so
do the exercises. It runs in a checkout with all of the training, and saves its pictures.

`train` runs the notebook's own cells with SHARE = 1 and leaves both models' weights in bfloat16,
`log.csv` (mean losses of 25 steps) and `run.json` (seconds, provenance). It loads them again, as
the notebook does, and leaves them in out/scratch/ as varmini's models, which live_bed.py scores.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

NOTEBOOK = ROOT / "notebooks" / "var_from_scratch.ipynb"
MODELS = ROOT / "data" / "models" / "scratch"
HEAD = '''"""All of VAR in one file, exported from notebooks/var_from_scratch.ipynb.

Run it inside a checkout of varmini: the whole training takes about five minutes of processor time.
"""
'''
SAVED = """
plt.switch_backend("agg")  # no window: each picture is saved instead
plt.show = lambda: plt.savefig(f"var_from_scratch_{plt.gcf().number}.png")
"""
WHOLE = r"^SHARE = [\d.]+"


def cells() -> list[tuple[str, str, list[str]]]:
    """(section, code, tags) of every code cell before the exercises."""
    section, found = "", []
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if title := re.match(r"## (\d+ · .*)", cell.source):
            section = title[1]
        if section.endswith("Exercises"):
            break
        if cell.cell_type == "code":
            found.append((section, cell.source, cell.metadata.get("tags", [])))
    return found


def exported() -> str:
    """The method as one file of Python, with all of the training."""
    parts, before = [HEAD], ""
    for section, code, tags in cells():
        if {"proof", "picture"} & set(tags):
            continue
        if section != before:
            parts.append(f"\n# {'-' * (97 - len(section))} {section}\n")
            before = section
        parts.append(re.sub(WHOLE, "SHARE = 1", code, flags=re.M) + "\n")
        if code.startswith("SCALE"):
            parts.append(SAVED)
    return "\n".join(parts)


def train(kind: str) -> None:
    """Runs every cell, the whole training included; leaves weights, log and account."""
    import torch
    from safetensors.torch import save_file

    from varmini.runtime.machine import provenance
    from varmini.runtime.tables import write_rows

    space: dict = {"__name__": "var_from_scratch"}
    account = {"kind": "from scratch", "machine": kind} | provenance()
    for section, code, tags in cells():
        if section.startswith("9 ") and "log" not in account:
            MODELS.mkdir(parents=True, exist_ok=True)
            for name in ("tokenizer", "var"):
                state = space[name[:3]].state_dict()
                save_file({k: v.to(torch.bfloat16) for k, v in state.items()},
                          MODELS / f"{name}.safetensors")  # fmt: skip
            write_rows(MODELS / "log.csv", log(space))
            account |= {"log": "log.csv", "held_out_loss": round(space["held_out"], 3)}
            space["SHARE"] = 0  # load what was just saved
        if "picture" not in tags:
            start = time.perf_counter(), time.process_time()
            exec(re.sub(WHOLE, "SHARE = 1", code, flags=re.M), space)
            if stage := re.search(r"= train_(tokenizer|var)\(", code):
                account[f"{stage[1]}_seconds"] = round(time.perf_counter() - start[0], 1)
                account[f"{stage[1]}_cpu_seconds"] = round(time.process_time() - start[1], 1)
                print(account, flush=True)
    copies, held = space["copies"], space["test_images"][:500]
    account |= {"psnr": round(space["psnr"](copies(space["tok"], held), held), 2)}
    (MODELS / "run.json").write_text(json.dumps(account, indent=1) + "\n")
    for name in ("tok", "var"):
        folder = ROOT / "out" / "scratch" / {"tok": "tokenizer"}.get(name, name)
        space[f"their_{name}"].save_pretrained(folder)
        print(folder)


def log(space: dict, every: int = 25) -> list[dict]:
    """Rows (stage, step, loss): means of so many steps."""
    rows = []
    for stage, name in (("tokenizer", "tok_losses"), ("transformer", "var_losses")):
        losses = space[name]
        for end in range(every, len(losses) + 1, every):
            mean = sum(losses[end - every : end]) / every
            rows.append({"stage": stage, "step": end, "loss": round(mean, 4)})
    return rows


def main() -> None:
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("export", help="write one file of Python")
    one.add_argument("--out", type=Path, default=ROOT / "out" / "var_from_scratch.py")
    two = commands.add_parser("train", help="run the whole training, and keep its weights")
    two.add_argument("--kind", default="", help="on what it runs, for the account")
    args = parser.parse_args()
    if args.what == "train":
        return train(args.kind)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(exported(), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
