"""The tokenizer: shapes, both paths through it, and gradients."""

import pytest
import torch
from tiny import make_tokenizer, random_images, random_tokens

from varmini.model.checks import as_pyramid

EXACT = dict(rtol=1e-9, atol=1e-9)
VARIANTS = [
    {},
    dict(attention=True, multipliers=(1, 2)),
    dict(image_channels=3, sizes=(1, (1, 3))),
    dict(patch=1),
    dict(sizes=(1, (1, 2), (2, 3))),
    dict(sizes=(3,), num_phi=0),
    dict(lookup="cosine"),
    dict(multipliers=(1, 1, 1), num_res_blocks=2, sizes=(1, 2)),
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@torch.no_grad()
def test_shapes_and_both_paths(options):
    tok = make_tokenizer(**options)
    c, grid = tok.config, tok.schedule.grids[-1]
    factor = c.patch * 2 ** (len(c.multipliers) - 1)
    assert tok.image_size == (grid[0] * factor, grid[1] * factor) and tok.vocab_size == 12
    images = random_images(2, c.image_channels, tok.image_size)
    f = tok.features(images)
    assert f.shape == (2, 4, *grid) and f.dtype == torch.float32
    tokens = tok.encode(images)
    as_pyramid(tokens, tok.schedule, 12)
    assert all(a.equal(b) for a, b in zip(tokens, tok.quantizer.encode(f)))
    drawn = tok.decode(tokens)
    assert drawn.shape == images.shape and drawn.dtype == torch.float32
    assert drawn.min() >= -1 and drawn.max() <= 1
    result = tok(images)
    assert all(a.equal(b) for a, b in zip(tokens, result.tokens))
    assert result.usage.shape == (len(tok.schedule),) and result.loss.ndim == 0
    exact, images = tok.double(), images.double()  # f + (f_hat - f) is f_hat but for rounding
    tokens, result = exact.encode(images), exact(images).images.clamp(-1, 1)
    torch.testing.assert_close(result, exact.decode(tokens), **EXACT)
    # Images of a batch do not touch each other; a norm of three like pixels enlarges rounding.
    torch.testing.assert_close(exact.features(images[1:]), exact.features(images)[1:], **EXACT)
    torch.testing.assert_close(exact.decode([t[1:] for t in tokens]), result[1:], **EXACT)


@torch.no_grad()
def test_decoding_from_the_first_scales_only(tok):
    tokens = random_tokens(tok.schedule, 2)
    steps = [tok.decode(tokens, num_scales=k) for k in (1, 2, 3)]
    assert steps[2].equal(tok.decode(tokens))
    for k, drawn in enumerate(steps[:2], 1):
        f_hat = tok.quantizer.cumulative(tokens)[k - 1]
        torch.testing.assert_close(drawn, tok.decode_features(f_hat).clamp(-1, 1))
        assert drawn.equal(tok.decode(tokens[:k], num_scales=k))
        assert not torch.allclose(drawn, steps[k])


def test_the_picture_loss_reaches_the_encoder_but_neither_codebook_nor_phi(tok):
    images = random_images(2)
    (tok(images).images - images).square().mean().backward()
    assert tok.encoder.conv_in.weight.grad.abs().sum() > 0
    assert tok.pre_quant.weight.grad.abs().sum() > 0
    assert tok.decoder.conv_in.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tok.quantizer.parameters())
    tok.zero_grad(set_to_none=True)
    tok(images).loss.backward()
    assert tok.encoder.conv_in.weight.grad.abs().sum() > 0
    assert tok.quantizer.codebook.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tok.decoder.parameters())


@torch.no_grad()
def test_encode_and_decode_leave_no_graph_and_no_change(tok):
    images = random_images(2)
    kept = images.clone()
    with torch.enable_grad():
        tokens = tok.encode(images)
        drawn = tok.decode(tokens)
    assert not drawn.requires_grad and images.equal(kept)
    assert tok.decode(tokens).equal(drawn)


def test_training_mode_gives_the_same_tokens_and_leaves_the_codebook_alone(tok):
    images, codes = random_images(3), tok.quantizer.codebook.weight.clone()
    tokens = tok.encode(images)
    result = tok.train()(images)
    for again in (result.tokens, tok.encode(images)):
        assert all(a.equal(b) for a, b in zip(again, tokens))
    assert tok.quantizer.codebook.weight.equal(codes)
