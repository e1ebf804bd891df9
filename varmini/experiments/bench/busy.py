"""A training step beside busy processes: threads that sleep while they wait, and that spin.

Threads of a product wait for each other. Those that spin keep the core from the one that they wait
for when another process takes a core, too (see `varmini/runtime/__init__.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

from ...runtime import WAITING
from ...runtime.tables import Row
from .measure import seconds_of, short

POLICIES = {
    "spins briefly": WAITING, "sleeps": {"OMP_WAIT_POLICY": "PASSIVE"}, "spins": {},
}  # fmt: skip
"""How a thread waits: variables of the process; without them as torch does by itself."""
COUNTS = (0, 1, 2)
"""Busy processes beside it."""
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Keeps a core busy until killed, or until its parent is gone."""
CHILD = "import torch; from varmini.experiments.bench import busy; busy.child({threads}, {rounds})"


def busy_rows(threads: int, rounds: int, counts: tuple[int, ...] = COUNTS) -> Iterator[Row]:
    """Milliseconds of a training step of the live bed, each policy in a process of its own.

    threads: of the training; rounds: steps that count; counts: of busy processes beside it.
    """
    for policy, variables in POLICIES.items():
        quiet: dict[str, float] = {}
        for count in counts:
            for what, measured in _measured(variables, count, threads, rounds).items():
                middle = statistics.median(measured)
                yield {
                    "what": what,
                    "waiting": policy,
                    "busy": count,
                    "ms": short(1e3 * middle),
                    "ms_low": short(1e3 * min(measured)),
                    "ms_high": short(1e3 * max(measured)),
                    "times_quiet": short(middle / quiet.setdefault(what, middle)),
                    "rounds": len(measured),
                }


def _measured(variables: dict, count: int, threads: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of the steps in a process with these variables, beside `count` busy ones."""
    own = {k: v for k, v in os.environ.items() if k not in WAITING} | variables
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", LOOP]))
            stack.callback(process.kill)
        command = [sys.executable, "-c", CHILD.format(threads=threads, rounds=rounds)]
        told = subprocess.run(command, env=own, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(told.stdout)


def child(threads: int, rounds: int) -> None:
    """Prints the seconds of the steps as JSON."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for what, step in steps():
        step()  # warms up
        found[what] = [seconds_of(step) for _ in range(rounds)]
    print(json.dumps(found))


def steps() -> Iterator[tuple[str, Callable[[], object]]]:
    """One training step of each stage of the preset `fashion`, on random images."""
    import torch

    from ...fast.quicken import quicken
    from ...model.tokenizer import MultiScaleVQVAE
    from ...model.transformer import VAR
    from ...runtime.machine import device
    from ...training.optim import Updater, make_optimizers
    from ...training.presets import preset
    from ...training.train_tokenizer import Stage1, perceptual_network
    from ...training.train_var import backward

    torch.manual_seed(0)
    first, second = preset("fashion").tokenizer, preset("fashion").var
    tok = quicken(MultiScaleVQVAE(first.model).to(device()), in_halves=True)
    shape = first.batch_size, first.model.image_channels, *tok.image_size
    images = torch.rand(shape, device=device()) * 2 - 1
    stage = Stage1(first, tok, perceptual_network(first.perceptual_network, in_halves=True), images)
    yield "tokenizer", lambda: stage.step(images, with_adversary=True)

    same = {name: getattr(tok.config, name) for name in ("sizes", "vocab_size", "code_channels")}
    c = dataclasses.replace(second.model, **same)
    b, var = second.batch_size, quicken(VAR(c).to(device()), in_halves=True)
    updater = Updater(var, make_optimizers(var, 1e-3, 0.05, second.muon_lr).values(), second.clip)
    tokens = torch.randint(c.vocab_size, (b, var.schedule.num_tokens), device=device())
    labels = torch.randint(c.num_classes, (b,), device=device())
    batch = tokens, labels, torch.rand(b, 1 + 2 * c.depth, device=device())
    yield "transformer", lambda: updater.step(backward(var, tok.eval(), batch, 1, False)[0])
