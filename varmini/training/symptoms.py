"""What goes wrong in a training and shows in its numbers: named on stderr, each once a run."""

from __future__ import annotations

import math
import sys

from torch import Tensor

from ..runtime import distributed

LARGEST_LOGIT = 100.0
"""e^100 to 1 for a token."""
FEW_CODES = 0.1
"""Share of the codebook; below it a codebook counts as collapsed."""


class Symptoms:
    """The warnings of one run."""

    def __init__(self, lr: float) -> None:
        self.lr, self.told = lr, set()

    def tell(self, kind: str, step: int, text: str) -> None:
        """One line on stderr, the first time only."""
        if kind not in self.told and distributed.is_main():
            from tqdm.auto import tqdm

            self.told.add(kind)
            tqdm.write(f"warning: step {step}: {kind}: {text}", file=sys.stderr)

    def skipped(self, step: int, count: int) -> None:
        """count: steps without an update since the last row of the log."""
        if count:
            self.tell("steps skipped", step, f"{count} with a loss or gradient that is not finite")

    def of_transformer(self, step: int, loss: float, logits: Tensor, vocab_size: int) -> None:
        """loss: nats a token. logits: (B, L, V), this process's."""
        own = min(logits.abs().amax().nan_to_num(1e9).item(), 1e9)
        largest, guessing = distributed.largest(math.ceil(own)), math.log(vocab_size)
        if largest > LARGEST_LOGIT:
            self.tell("exploding logits", step, f"they reach {largest}; {self._too_high()}")
        if loss > 1.5 * guessing:
            text = f"the loss is {loss:.3g}, and log V = {guessing:.3g}; {self._too_high()}"
            self.tell("worse than guessing", step, text)

    def of_tokenizer(self, step: int, error: float, grey: float) -> None:
        """error: the loss of the reconstructed pixels; grey: that of one even grey for all."""
        if error > 2 * grey:
            text = f"pixels are off by {error:.3g}, an even grey by {grey:.3g}; {self._too_high()}"
            self.tell("worse than a grey picture", step, text)

    def of_codebook(self, step: int, share: float, codes: int, tokens: int) -> None:
        """share: of the codes that were seen in so many tokens."""
        if share < FEW_CODES and tokens >= 4 * codes:
            text = f"{round(share * codes)} of {codes} codes are in use; a higher --diversity helps"
            self.tell("codebook collapse", step, f"{text}, or a lower --lr (now {self.lr:g})")

    def _too_high(self) -> str:
        return f"is --lr {self.lr:g} too high?"
