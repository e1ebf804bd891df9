"""The official code beside ours, in turn, with the same weights: results/bench/official.csv.

    git clone https://github.com/FoundationVision/VAR /tmp/official
    python scripts/evidence/against_official.py --official /tmp/official

Measures a training step (forward, cross-entropy, backward, AdamW) and drawing with decoding, in
every precision that this machine is quick at; rows that a machine of the other kind measured stay.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import varmini  # noqa: F401  # before torch, which reads once how threads wait

# isort: split
import torch
import torch.nn.functional as F
from torch import nn

from varmini import VAR, MultiScaleVQVAE, TokenizerConfig, VARConfig, quicken, sample
from varmini.cli.bench import write
from varmini.experiments.bench.measure import arithmetic, in_pairs, name_of, precisions
from varmini.experiments.bench.shapes import PAPER
from varmini.official import to_official
from varmini.runtime.machine import autocast
from varmini.runtime.tables import RESULTS, Row

# Name, blocks, sizes of the token maps, images in a training step, images drawn together.
SHAPES = (("A", 6, (1, 2, 3, 4, 6, 8), 16, (1, 16)), ("B", 8, PAPER, 4, (1,)))
CODES, CHANNELS, WIDTH = 4096, 32, 32
"""Codes, their length, and the width of the tokenizer's first level."""
GUIDED = {"cfg": 1.5, "top_k": 900, "top_p": 0.96}
Run = Callable[[], object]


def official_models(folder: Path, tok: MultiScaleVQVAE, var: VAR) -> nn.Module:
    """The official transformer, which holds its tokenizer, with the weights of ours."""
    sys.path.insert(0, str(folder))
    from models import VAR as OfficialVAR
    from models import VQVAE

    sizes = tuple(h for h, _ in tok.schedule.grids)
    vae = VQVAE(vocab_size=CODES, z_channels=CHANNELS, ch=WIDTH, v_patch_nums=sizes)
    c = var.config
    theirs = OfficialVAR(
        vae, num_classes=c.num_classes, depth=c.depth, embed_dim=c.width, num_heads=c.heads,
        norm_eps=1e-6, attn_l2_norm=True, patch_nums=sizes,
    )  # fmt: skip
    for model, state in zip((vae, theirs), to_official(tok, var)):
        wrong = model.load_state_dict(state, strict=False)
        assert set(wrong.missing_keys) <= {"attn_bias_for_masking"}, wrong
        assert not wrong.unexpected_keys, wrong
        model.eval()
    return theirs


@torch.no_grad()
def same_logits(theirs: nn.Module, var: VAR) -> None:
    """Stops if the two do not compute the same."""
    inputs, labels = torch.randn(2, var.schedule.num_tokens - 1, CHANNELS), torch.tensor([3, 7])
    theirs.cond_drop_rate = 0.0
    torch.testing.assert_close(theirs(labels, inputs), var(labels, inputs), rtol=1e-3, atol=1e-3)


def step_of(model: nn.Module, tokens: int, batch: int) -> Run:
    """A training step."""
    labels, inputs = torch.arange(batch), torch.randn(batch, tokens - 1, CHANNELS)
    targets = torch.randint(CODES, (batch * tokens,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        with autocast():
            logits = model(labels, inputs)
        F.cross_entropy(logits.flatten(0, 1), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def drawing(tok: MultiScaleVQVAE, var: VAR, theirs: nn.Module, batch: int) -> dict[str, Run]:
    """Pictures of some classes by both, guided and decoded."""
    labels = torch.arange(batch)

    def ours() -> None:
        with autocast():
            sample(var, tok, labels, seed=0, **GUIDED)

    def official() -> None:
        with autocast():
            theirs.autoregressive_infer_cfg(batch, labels, g_seed=0, **GUIDED)

    return {"ours": ours, "official": official}


def rows(folder: Path, rounds: int, limit: float) -> Iterator[Row]:
    """A row a shape, direction and precision."""
    for name, depth, sizes, batch, drawn in SHAPES:
        torch.manual_seed(0)
        common = {"sizes": sizes, "vocab_size": CODES, "code_channels": CHANNELS}
        var = VAR(VARConfig(depth, 64 * depth, depth, **common)).eval()
        tok = MultiScaleVQVAE(TokenizerConfig(**common, width=WIDTH)).eval()
        theirs = official_models(folder, tok, var)
        same_logits(theirs, var)
        quick = quicken(copy.deepcopy(var), in_halves=True)
        other = official_models(folder, tok, var)
        tokens = var.schedule.num_tokens
        steps = {"ours": step_of(quick, tokens, batch), "official": step_of(other, tokens, batch)}
        tasks = [("sample", n, drawing(tok, var, theirs, n)) for n in drawn]
        for what, n, runs in (("train", batch, steps), *tasks):
            for dtype in precisions():
                with arithmetic(dtype):
                    measured = in_pairs(runs, rounds, limit)
                about = {"shape": name, "what": what, "batch": n, "arithmetic": name_of(dtype)}
                yield about | measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, required=True, help="a clone of the official code")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="in each, both run once")
    parser.add_argument("--limit", type=float, default=30, help="seconds for the rounds of a row")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench" / "official.csv")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    write(o.out, rows(o.official, o.rounds, o.limit))


if __name__ == "__main__":
    main()
