"""The live bed as ONNX, one static graph a scale, for web/test/runtimes.js to draw with.

pip install onnx onnxscript
python scripts/evidence/page_onnx.py --out /tmp/onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from varmini import VAR, MultiScaleVQVAE
from varmini.model.transformer import KVCache


class FirstScale(nn.Module):
    """Labels (2,) with and without class -> logits (1, n, V), and what later scales need."""

    def __init__(self, var: VAR) -> None:
        super().__init__()
        self.var, self.k = var, 0

    def forward(self, labels: Tensor) -> tuple[Tensor, ...]:
        x, modulations, head = self.var.condition(labels)
        return self.run(x, modulations, head, KVCache(), 0.0) + (modulations, head)

    def run(self, x: Tensor, modulations: Tensor, head: Tensor, cache: KVCache, t: float | Tensor):
        with_class, without = self.var.hidden(self.k, x, modulations, head, cache).chunk(2)
        logits = self.var.head((1 + t) * with_class - t * without)
        blocks = range(self.var.config.depth)
        keys, values = ([side[b] for b in blocks] for side in (cache.keys, cache.values))
        return logits, torch.stack(keys), torch.stack(values)


class LaterScale(FirstScale):
    """Codes (1, n, C) of the scale before -> logits (1, n, V), keys and values."""

    def __init__(self, var: VAR, k: int) -> None:
        super().__init__(var)
        self.k = k

    def forward(self, codes, modulations, head, keys, values, t):
        cache = KVCache()
        for b in range(self.var.config.depth):
            cache.keys[b], cache.values[b] = keys[b], values[b]
        return self.run(self.var.word(codes.repeat(2, 1, 1)), modulations, head, cache, t)


class Decoder(nn.Module):
    def __init__(self, tok: MultiScaleVQVAE) -> None:
        super().__init__()
        self.tok = tok

    def forward(self, f_hat: Tensor) -> Tensor:
        return self.tok.decode_features(f_hat)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tok, var = (kind.from_pretrained("fashion").eval() for kind in (MultiScaleVQVAE, VAR))

    def export(name: str, graph: nn.Module, *args: Tensor) -> None:
        file = out / f"{name}.onnx"
        torch.onnx.export(graph.eval(), args, file, dynamo=True, external_data=False, verbose=False)

    labels = torch.tensor([3, var.config.num_classes])
    export("scale0", FirstScale(var), labels)
    _, keys, values, modulations, head = FirstScale(var)(labels)
    for k, (h, w) in enumerate(tok.schedule.grids[1:], 1):
        codes = torch.zeros(1, h * w, tok.quantizer.channels)
        args = (codes, modulations, head, keys, values, torch.tensor(0.5 * k))
        export(f"scale{k}", LaterScale(var, k), *args)
        _, keys, values = LaterScale(var, k)(*args)
    export("decoder", Decoder(tok), torch.zeros(1, tok.quantizer.channels, *tok.schedule.grids[-1]))


if __name__ == "__main__":
    main()
