"""Causal attention by blocks: the values and gradients of the plain form, and where it is used."""

import copy

import pytest
import torch

from varmini import quicken
from varmini.fast import causal
from varmini.fast.causal import BLOCK, CausalBlocks, blocks
from varmini.zoo.generators.causal import Block, CausalTransformer, causal_attention
from varmini.zoo.generators.igpt import IGPT, IGPTConfig


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_values_and_gradients_are_those_of_the_plain_form(length):
    qkv = torch.randn(2, length, 3 * 24, requires_grad=True)
    found = []
    for form in (causal_attention, CausalBlocks.apply):
        mixed = form(qkv, 3)
        found.append([mixed, *torch.autograd.grad(mixed.square().sum(), qkv)])
    for ours, plain in zip(*reversed(found)):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_blocks_cover_every_query_once_and_show_it_all_before_it():
    for length in (1, BLOCK, 3 * BLOCK + 1):
        queries = [i for at, _ in blocks(length) for i in range(length)[at]]
        assert queries == list(range(length))
        assert all(seen == slice(0, at.stop) for at, seen in blocks(length))


def test_it_is_used_to_train_long_sequences_alone(monkeypatch):
    calls, body = [], quicken(CausalTransformer(causal.LONG, 1, 8, 2))  # tried before it is patched
    monkeypatch.setattr(CausalBlocks, "apply", lambda qkv, h: calls.append(1) or qkv[..., :8])
    x = torch.randn(1, causal.LONG, 8)
    with torch.no_grad():
        body(x), body(x, body.new_cache())
    body(x[:, :-1])
    assert not calls
    body(x)
    assert calls == [1]


def test_a_quick_model_has_the_gradients_of_a_plain_one():
    torch.manual_seed(0)
    plain = IGPT(IGPTConfig(side=12, depth=2, width=16, heads=2, vocab_size=5)).eval()
    quick = copy.deepcopy(quicken(copy.deepcopy(plain)))
    tokens, labels, found = torch.randint(5, (2, 12, 12)), torch.tensor([1, 2]), []
    for model in (plain, quick):
        loss = model.loss(tokens, labels)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert "causal" not in vars(Block(8, 2)) and quick.state_dict().keys() == dict(
        plain.state_dict()).keys()  # fmt: skip
