"""The tokenizer: shapes, both paths through it, gradients, and what it refuses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_tokenizer, random_images, random_tokens

from varmini.model.checks import as_pyramid

VARIANTS = [
    {},
    dict(attention=True, multipliers=(1, 2)),
    dict(image_channels=3),
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
    exact = tok.double()  # f + (f_hat - f) is f_hat but for rounding
    tokens = exact.encode(images)
    result = exact(images.double()).images.clamp(-1, 1)
    torch.testing.assert_close(result, exact.decode(tokens), rtol=1e-9, atol=1e-9)


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


@settings(max_examples=8)
@given(
    batch=st.integers(1, 4),
    patch=st.sampled_from([1, 2]),
    channels=st.sampled_from([1, 3]),
    grid=st.tuples(st.integers(1, 3), st.integers(2, 3)),
    seed=st.integers(0, 99),
)
@torch.no_grad()
def test_images_of_a_batch_do_not_touch_each_other(batch, patch, channels, grid, seed):
    tok = make_tokenizer(seed, sizes=(1, grid), patch=patch, image_channels=channels)
    images = random_images(batch, channels, tok.image_size, seed)
    tokens = tok.encode(images)
    drawn = tok.decode(tokens)
    assert drawn.shape == images.shape
    for i in range(batch):
        torch.testing.assert_close(
            tok.decode([t[i : i + 1] for t in tokens]), drawn[i : i + 1], rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(
            tok.features(images[i : i + 1]), tok.features(images)[i : i + 1], rtol=1e-4, atol=1e-5
        )


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


@pytest.mark.parametrize(
    "images, words",
    [
        (torch.zeros(2, 3, 16, 16), ["(2, 3, 16, 16)", "(B, 1, 16, 16)"]),
        (torch.zeros(2, 1, 16, 8), ["(2, 1, 16, 8)", "(B, 1, 16, 16)"]),
        (torch.zeros(1, 16, 16), ["(1, 16, 16)"]),
        (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), ["uint8", "[-1, 1]"]),
        (torch.full((2, 1, 16, 16), 255.0), ["255", "[-1, 1]", "127.5"]),
        (torch.full((2, 1, 16, 16), -1.5), ["-1.5", "[-1, 1]"]),
        (torch.full((2, 1, 16, 16), torch.nan), ["nan", "[-1, 1]"]),
        ("picture.png", ["a str", "(B, 1, 16, 16)"]),
        (np.zeros((2, 1, 16, 16)), ["a ndarray", "(B, 1, 16, 16)"]),
    ],
)
def test_bad_images_are_named(tok, images, words):
    for call in (tok.encode, tok.features, tok):
        with pytest.raises(ValueError) as error:
            call(images)
        assert all(word in str(error.value) for word in words), error.value
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda tok, t: tok.decode(t[:2]), ["2 maps", "3 maps"]),
        (lambda tok, t: tok.decode(t + t[-1:]), ["4 maps", "3 maps"]),
        (lambda tok, t: tok.decode(t, num_scales=4), ["4", "1 to 3"]),
        (lambda tok, t: tok.decode(t, num_scales=0), ["0", "1 to 3"]),
        (lambda tok, t: tok.decode([t[0] + 12, *t[1:]]), ["[0, 12)"]),
        (lambda tok, t: tok.decode([m.float() for m in t]), ["float32", "integers"]),
    ],
)
def test_bad_tokens_are_named(tok, call, words):
    with pytest.raises(ValueError) as error:
        call(tok, random_tokens(tok.schedule, 2))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(width=48), ["width", "48", "32"]),
        (dict(sizes=(4, 2)), ["2x2", "4x4"]),
        (dict(sizes=()), ["empty"]),
        (dict(lookup="dot"), ["'dot'"]),
        (dict(vocab_size=0), ["vocab_size is 0"]),
        (dict(num_phi=-1), ["num_phi is -1"]),
        (dict(multipliers=()), ["multipliers"]),
        (dict(patch=0), ["patch"]),
        (dict(width=0), ["width"]),
    ],
)
def test_bad_configurations_are_named(options, words):
    with pytest.raises(ValueError) as error:
        make_tokenizer(**options)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
