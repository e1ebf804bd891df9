"""The wheel in a clean environment, away from the checkout, on several Pythons: results/wheel.csv.

    python scripts/release/try_wheel.py [--only python3.12 ...] [--tiny]

Builds a wheel from the last commit. For each interpreter it installs that wheel with the pinned
packages in an environment of its own, and runs `varmini sample`, `varmini demo`, the first notebook
and those that read tables of results in an empty folder, with an empty home and without a network
(`unshare -n`, where that is allowed). A row an interpreter; what failed is told by its last line.
The minutes are no measure of speed: nobody kept the machine quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from try_versions import ROOT, alone, interpreter, last_line, run

from varmini.runtime.machine import provenance
from varmini.runtime.tables import read_cells, write_rows

TABLE = ROOT / "results" / "wheel.csv"
PYTHONS = ("python3.11", "python3.12", "python3.13")
NOTEBOOKS = ("00", "09", "10", "11", "12", "13", "14", "15", "16")
EXECUTE = ("jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "run")
TASKS = {
    "sample": (
        ("varmini", "sample", "--labels", "horse", "ship", "--n", "4", "--out", "samples.png"),
        "samples.png",
    ),
    **{f"notebook {n}": ((*EXECUTE, f"{n}.ipynb"), f"run/{n}.ipynb") for n in NOTEBOOKS},
    "demo": (("varmini", "demo"), "out/demo/index.html"),
}
"""Commands for a folder that holds nothing but those notebooks, and what each leaves."""
ABOUT = """
import json, sys, varmini
from varmini.runtime.machine import kind_of_machine, provenance
assert varmini.__file__.startswith(sys.prefix), varmini.__file__
found = provenance()
about = {k: found[k] for k in ("python", "torch", "threads", "precision", "hardware")}
print(json.dumps(about | {"kind": kind_of_machine()}))
"""


def build(folder: Path, flags: list[str]) -> Path:
    """The wheel of the last commit; what a checkout holds besides stays out of it."""
    source = folder / "source"
    run("git", "archive", "-o", str(folder / "source.tar"), "HEAD", check=True)
    shutil.unpack_archive(folder / "source.tar", source)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", *flags, "--no-deps", "-w", str(folder),
        str(source), check=True)  # fmt: skip
    return next(folder.glob("varmini-*.whl"))


def try_one(name: str, wheel: Path, flags: list[str], folder: Path, tiny: bool) -> dict[str, Any]:
    """The row of one interpreter."""
    row, base = {"interpreter": name}, interpreter(name)
    if not base:
        return row | {"install": "not measured: it is not on this machine"}
    work, home, venv = (folder / part for part in ("work", "home", "venv"))
    work.mkdir(), home.mkdir()
    for n in NOTEBOOKS:
        shutil.copy(next((ROOT / "notebooks").glob(f"{n}*.ipynb")), work / f"{n}.ipynb")
    run(base, "-m", "venv", str(venv), check=True)
    bin, prefix = venv / "bin", alone()
    done = run(str(bin / "python"), "-m", "pip", "install", "--quiet", "--no-compile", *flags,
               "-c", "constraints.txt", f"{wheel}[notebooks]")  # fmt: skip
    ours = ("PYTHON", "VARMINI_", "HF_", "XDG_", "JUPYTER")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)} | {"HOME": str(home)}
    if not done.returncode:
        done = run(*prefix, str(bin / "python"), "-c", ABOUT, cwd=work, env=env)
    if done.returncode:
        return row | {"install": f"failed: {last_line(done)}"}
    row |= json.loads(last_line(done))
    row |= {"wheel_mb": f"{wheel.stat().st_size / 1e6:.1f}", "install": "passed"}
    row["network"] = "none" if prefix else "there"
    for task, ((program, *arguments), left) in TASKS.items():
        begin = time.monotonic()
        arguments += ("--tiny",) if tiny and task == "demo" else ()
        done = run(*prefix, str(bin / program), *arguments, cwd=work, env=env)
        if done.returncode:
            row[task] = f"failed: {(done.stderr.strip() or last_line(done)).splitlines()[-1]}"
        else:
            row[task] = "passed" if (work / left).is_file() else f"failed: it left no {left}"
            row[task] += ", --tiny" * ("--tiny" in arguments)
        row[f"{task}, minutes"] = f"{(time.monotonic() - begin) / 60:.1f}"
        print(name, task, row[task], flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=PYTHONS, default=PYTHONS)
    parser.add_argument("--pip-flags", default="", help="as PIP_FLAGS of the Makefile")
    parser.add_argument("--tiny", action="store_true", help="the demo's toy form: a quick check")
    o = parser.parse_args()
    flags = o.pip_flags.split()
    with tempfile.TemporaryDirectory() as built:
        wheel = build(Path(built), flags)
        for name in o.only:
            origin = {k: provenance()[k] for k in ("date", "hardware", "command", "commit")}
            with tempfile.TemporaryDirectory() as folder:
                row = try_one(name, wheel, flags, Path(folder), o.tiny) | origin
            print(row, flush=True)
            rows = {r["interpreter"]: r for r in (read_cells(TABLE) if TABLE.exists() else [])}
            rows[name] = row
            write_rows(TABLE, [rows[name] for name in PYTHONS if name in rows])
    sys.exit(any("failed" in str(cell) for row in rows.values() for cell in row.values()))


if __name__ == "__main__":
    main()
