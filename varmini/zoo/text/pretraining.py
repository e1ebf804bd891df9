"""The text encoder is trained before the generators, on captions alone, and then frozen.

So are those of the papers: Infinity reads with Flan-T5, Parti may start from BERT's task. Here the
task is to say the same in another way: from any caption of a scene, the two garments as the first
form of the grammar names them, left and right. Only captions of `SEEN` pairs are read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grammar import NAMES, captions, encode
from .reading import CrossAttention, TextEncoder, words_of
from .scenes import SEEN


class Paraphrase(nn.Module):
    """Captions (B, T) -> logits (B, 2, 10) of the left and the right garment."""

    def __init__(self, text: TextEncoder, heads: int) -> None:
        super().__init__()
        width = text.position.shape[1]
        self.text, self.cross = text, CrossAttention(width, heads)
        self.side, self.head = nn.Parameter(torch.randn(2, width)), nn.Linear(width, len(NAMES))

    def forward(self, numbers: Tensor) -> Tensor:
        """LongTensor (B, T) -> (B, 2, 10)."""
        text = self.cross.read(self.text(numbers), words_of(numbers))
        return self.head(self.cross(self.side.expand(len(numbers), -1, -1), text))


def every_caption(pairs: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """All captions of these pairs (n, T), and the classes (n, 2) that they tell."""
    told = [(text, pair) for pair in pairs for text in captions(*pair)]
    return encode([text for text, _ in told]), torch.tensor([pair for _, pair in told])


def pretrain(
    text: TextEncoder, heads: int, *, steps: int = 1500, batch_size: int = 32, lr: float = 1e-3,
    enough: float = 0.01, pairs: tuple[tuple[int, int], ...] = SEEN,
) -> Paraphrase:  # fmt: skip
    """Trains the encoder in place, with torch's random numbers, and freezes it.

    It ends after `steps`, or when the mean loss of late is below `enough` nats a garment.
    """
    where = text.position.device
    numbers, wanted = (t.to(where) for t in every_caption(pairs))
    model, late = Paraphrase(text, heads).to(where).train(), 3.0
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    for _ in range(steps):
        rows = torch.randint(len(numbers), (batch_size,)).to(where)
        loss = F.cross_entropy(model(numbers[rows]).flatten(0, 1), wanted[rows].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        late += 0.05 * (loss.item() - late)
        if late < enough:
            break
    text.requires_grad_(False)
    return model.eval()
