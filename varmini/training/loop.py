"""What surrounds a step of training, the same for all loops: stop, show, log, save, resume."""

from __future__ import annotations

import math
import signal
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime import distributed
from . import checkpoint
from .run_folder import Run, make_folder


def uniform(seed: int, step: int, rows: int, columns: int) -> Tensor:
    """(rows, columns) float32 in [0, 1): the random numbers of a step, for its global batch."""
    numbers = np.random.default_rng((seed, step)).random((rows, columns), dtype=np.float32)
    return torch.from_numpy(numbers)


class StopSignal:
    """Turns SIGTERM and Ctrl-C, inside a `with`, into a request that is seen after a step.

    The second signal ends the process at once, as usual; under torchrun it is ignored, because a
    preempted job's processes are told both by the scheduler and by torchrun.
    """

    AGREE_EVERY = 4
    """Steps between two questions to the other processes, who must all stop after the same one."""

    def __init__(self) -> None:
        self.received = self._noted = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: Any) -> None:
        self._noted = number
        if distributed.world() == 1:
            self.received = number
            self.__exit__()

    def agree(self, step: int) -> None:
        """Sees to it that all processes know after the same step that one has to stop."""
        if distributed.world() > 1 and step % self.AGREE_EVERY == 0:
            self.received = distributed.largest(self._noted)


class Loop(StopSignal):
    """Goes through the steps of a run, from where it stopped, and does all but the step itself.

        loop = Loop("var", config, out, state, total=steps, log_at=range(100, steps, 100))
        with loop:
            for step in loop:
                ...                        # forward, backward, update
                loop.show(loss)
                if loop.logs:              # in this step a row of log.csv is due
                    loop.log({"loss": loss})

    After each step it saves, if it is time or a signal came; then a stopped run ends with
    SystemExit(128 + signal). Under torchrun all processes do the same.

    Args:
        kind: of the model, for run.json; also the bar's name.
        config: with `batch_size`, `lr` and `checkpoint_every`; goes into run.json.
        out: the run's folder, which `check_folder` has allowed.
        state: all that changes from step to step, by name: it is saved and restored.
        total: steps of the whole run.
        log_at: the steps, counted from 1, after which a row is logged; the last always is.
        resume, clear: go on from the newest checkpoint in `out`, or else remove an earlier run.
        go_on: what a stopped run advises; usually --resume.

    Raises:
        ValueError: when `out` holds the checkpoints of another run.
    """

    def __init__(
        self, kind: str, config: Any, out: Path, state: dict[str, Any], *, total: int,
        log_at: Collection[int], resume: bool = False, clear: bool = False, go_on: str = "",
    ) -> None:  # fmt: skip
        super().__init__()
        self.config, self.state, self.total, self.log_at = config, state, total, log_at
        self.out = make_folder(out, clear=clear and not resume)
        self.start = checkpoint.restore(out / "state", state) if resume else 0
        self.run = Run(out, config, self.start, kind)
        self.name, self.go_on = kind or out.name, go_on or f"go on with --resume --out {out}"
        self.symptoms = Symptoms(config.lr)

    def __iter__(self) -> Iterator[int]:
        steps = range(self.start, self.total)
        self.bar = distributed.progress(steps, self.name, self.start)
        for step in self.bar:
            self.done = step + 1
            yield step
            self.agree(self.done)
            due = self.done % self.config.checkpoint_every == 0 or self.done == self.total
            if due or self.received:
                checkpoint.save(self.out / "state", self.done, self.state)
            if self.received:
                if distributed.is_main():
                    print(f"stopped; everything is saved: {self.go_on}", file=sys.stderr)
                raise SystemExit(128 + self.received)

    @property
    def logs(self) -> bool:
        """Whether a row of the log is due in this step."""
        return self.done in self.log_at or self.done == self.total

    def show(self, loss: Tensor) -> None:
        """Loss (a scalar, this process's) and images a second beside the bar, every tenth step."""
        if self.done % 10 == 0:
            rate = self.config.batch_size * (self.bar.format_dict["rate"] or 0)
            mean = distributed.mean(loss.detach()).item()
            self.bar.set_postfix(loss=f"{mean:.4f}", images_s=f"{rate:.0f}")

    def log(self, values: dict[str, float | None]) -> None:
        """A row of log.csv; "skipped" among its values is also told on stderr."""
        if count := values.get("skipped", 0):
            text = f"{count} with a loss or gradient that is not finite"
            self.symptoms.tell("steps skipped", self.done, text)
        self.run.log(self.done, self.done * self.config.batch_size, values)

    def finish(self, model: Any, dtype: torch.dtype | None = None) -> Path:
        """Writes the finished model into the folder, and returns that."""
        if distributed.is_main():
            model.save_pretrained(self.out, dtype)
        distributed.wait()
        return self.out


class Symptoms:
    """What goes wrong in a training and shows in its numbers: named on stderr, each once a run."""

    LARGEST_LOGIT = 100.0  # e^100 to 1 for a token
    FEW_CODES = 0.1  # share of the codebook under which it counts as collapsed

    def __init__(self, lr: float) -> None:
        self.lr, self.told = lr, set()
        self.too_high = f"is --lr {lr:g} too high?"

    def tell(self, kind: str, step: int, text: str) -> None:
        """One line on stderr, the first time only."""
        if kind not in self.told and distributed.is_main():
            from tqdm.auto import tqdm

            self.told.add(kind)
            tqdm.write(f"warning: step {step}: {kind}: {text}", file=sys.stderr)

    def of_transformer(self, step: int, loss: float, logits: Tensor, vocab_size: int) -> None:
        """loss: nats a token. logits: (B, L, V), this process's."""
        own = min(logits.abs().amax().nan_to_num(1e9).item(), 1e9)
        largest, guessing = distributed.largest(math.ceil(own)), math.log(vocab_size)
        if largest > self.LARGEST_LOGIT:
            self.tell("exploding logits", step, f"they reach {largest}; {self.too_high}")
        if loss > 1.5 * guessing:
            text = f"the loss is {loss:.3g}, and log V = {guessing:.3g}; {self.too_high}"
            self.tell("worse than guessing", step, text)

    def of_tokenizer(self, step: int, error: float, grey: float) -> None:
        """error: the loss of the reconstructed pixels; grey: that of one even grey for all."""
        if error > 2 * grey:
            text = f"pixels are off by {error:.3g}, an even grey by {grey:.3g}; {self.too_high}"
            self.tell("worse than a grey picture", step, text)

    def of_codebook(self, step: int, share: float, codes: int, tokens: int) -> None:
        """share: of the codes that were seen in so many tokens."""
        if share < self.FEW_CODES and tokens >= 4 * codes:
            text = f"{round(share * codes)} of {codes} codes are in use; a higher --diversity helps"
            self.tell("codebook collapse", step, f"{text}, or a lower --lr (now {self.lr:g})")
