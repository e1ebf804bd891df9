"""What tests/runtime/test_distributed.py lets torchrun start twice: all runs on two processes.

    torchrun --standalone --nproc-per-node 2 tests/two_processes.py FOLDER

Leaves the runs in FOLDER, and in rank-0.json and rank-1.json what each process saw.
"""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import torch
import toy_world
from toy_world import LOOPS, STOP

from varmini.runtime import distributed

RUNS = {"ddp": "var", "fsdp": "var", "tok": "tokenizer"}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seen = {"rows": {}, "codes": {}, "error": ""}
    toy_world.install(setattr, seen["rows"])
    distributed.start()
    rank = distributed.rank()
    for name, kind in RUNS.items():
        config = toy_world.configs(folder)[kind]
        if name == "fsdp":
            config = dataclasses.replace(config, parallel="fsdp", recompute=True)
        loop, out = LOOPS[kind], folder / f"{name}-two"
        # The second process alone is told to stop, one step before they next ask each other.
        code = toy_world.stopped_run(kind, config, out, STOP - 2, here=rank == 1)
        seen["codes"][name] = code
        if rank == 0:
            shutil.copytree(out, folder / f"{name}-two-then-one")
        distributed.wait()
        loop.train(config, out, resume=True)
        loop.train(config, folder / f"{name}-one-then-two", resume=True)
    uneven = dataclasses.replace(toy_world.configs(folder)["var"], batch_size=5)
    try:
        LOOPS["var"].train(uneven, folder / "uneven")
    except (ValueError, SystemExit) as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    (folder / f"rank-{rank}.json").write_text(json.dumps(seen))
    distributed.wait()  # neither leaves while the other still speaks


if __name__ == "__main__":
    main(Path(sys.argv[1]))
