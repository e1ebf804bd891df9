"""How long the reader's sweep takes on one core: `varmini scaling --data fashion-subset`.

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
    VARMINI_PRECISION=float32 OMP_NUM_THREADS=1 python scripts/evidence/sweep_minutes.py

Takes some steps of each size and reckons for all runs, in seconds of processor time, which other
work on the machine hardly changes: an estimate, no stopwatch. Rows in
results/scaling/fashion/minutes.csv; the last one is the whole, tokens of the images included.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from pathlib import Path

from varmini.experiments.scaling.sweep import LIVE, run_sweep
from varmini.runtime.tables import RESULTS, origin, write_rows

SHORT, LONG = 4, 44


def seconds(depth: int, steps: int, tokens: Path | None, folder: Path) -> float:
    """Processor time of one run of so many steps, measured once at its end as all runs are."""
    if tokens is not None:
        shutil.copytree(tokens, folder / "tokens")
    images = steps * LIVE.batch_size
    sweep = dataclasses.replace(LIVE, depths=(depth,), seeds=(0,), images=images, points=1)
    start = time.process_time()
    run_sweep(sweep, folder, folder / "sweep.csv")
    return time.process_time() - start


def main() -> None:
    kind = os.environ.get("ONEDNN_MAX_CPU_ISA", "all that the machine has")
    rows, total = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "first")
        encoded = seconds(1, SHORT, None, first)
        for depth in LIVE.depths:
            short, long = (seconds(depth, n, first / "tokens", Path(folder, f"{depth}-{n}"))
                           for n in (SHORT, LONG))  # fmt: skip
            step = (long - short) / (LONG - SHORT)
            steps = LIVE.images // LIVE.batch_size
            whole = len(LIVE.seeds) * (steps * step + LIVE.points * short)
            rows.append({"depth": depth, "seconds_a_step": step, "minutes": whole / 60})
            total += whole / 60
            print(f"d = {depth}: {1000 * step:.0f} ms a step", flush=True)
    rows.append({"depth": 0, "seconds_a_step": 0.0, "minutes": total + encoded / 60})
    about = {"instructions": kind} | origin()
    print(f"{total + encoded / 60:.1f} minutes in all")
    print("wrote", write_rows(RESULTS / "scaling" / "fashion" / "minutes.csv",
                              [row | about for row in rows]))  # fmt: skip


if __name__ == "__main__":
    main()
