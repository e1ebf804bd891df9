"""What users pass in: any usual type gives the same result, anything else one clear message."""

import math

import numpy as np
import pytest
import torch
from tiny import make_quantizer, make_tokenizer, make_var, random_images, random_tokens
from torch import nn
from torch.utils import _pytree as pytree

from varmini import VAR, ScaleSchedule, VARConfig, inpaint, sample
from varmini.model.checks import as_pyramid

SCHEDULE = ScaleSchedule((1, 2, 4))
TOKENS, IMAGES = random_tokens(SCHEDULE, 2), random_images(2)
TEACHER = make_quantizer(SCHEDULE).teacher_inputs(TOKENS)
HALF = torch.arange(16).expand(16, 16) >= 8  # the right half is to be drawn
WIDTHS = [getattr(torch, f"{u}int{n}") for n in (8, 16, 32, 64) for u in ("", "u")]

# --------------------------------------------------------------------------- what is understood


@pytest.mark.parametrize("dtype", WIDTHS, ids=str)
@torch.no_grad()
def test_integers_of_any_width_are_labels_and_tokens(var, tok, dtype):
    labels, narrow = torch.tensor([0, 2]), [t.to(dtype) for t in TOKENS]
    assert tok.decode(narrow).equal(tok.decode(TOKENS))
    assert tok.quantizer.teacher_inputs(narrow).equal(tok.quantizer.teacher_inputs(TOKENS))
    assert SCHEDULE.flatten(narrow).equal(SCHEDULE.flatten(TOKENS))
    assert tok.decode([t.numpy() for t in narrow]).equal(tok.decode(TOKENS))
    assert var(labels.to(dtype), TEACHER).equal(var(labels, TEACHER))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (label for label in (0, 2)),
        lambda: range(0, 3, 2),
        lambda: np.array([0, 2], np.int32),
        lambda: [np.int64(0), np.int16(2)],
        lambda: [np.uint64(0), np.uint64(2)],
        lambda: torch.tensor([0, 2]).unbind(),
    ],
)
def test_labels_come_in_any_container(var, tok, make):
    expected = sample(var, tok, [0, 2], seed=0)
    assert sample(var, tok, make(), seed=0).equal(expected)
    expected = inpaint(var, tok, IMAGES, HALF, [0, 2], seed=0)
    assert inpaint(var, tok, IMAGES, HALF, make(), seed=0).equal(expected)


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numbers_of_numpy_are_numbers(var, tok, kind):
    for draw in (
        lambda **options: sample(var, tok, [0, 2], **options),
        lambda **options: inpaint(var, tok, IMAGES, HALF, **options),
    ):
        plain = draw(seed=5, top_k=3, top_p=0.5, cfg=2.0)
        found = draw(seed=kind(5), top_k=kind(3), top_p=np.float32(0.5), cfg=np.float64(2))
        assert found.equal(plain)


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 1, 16, 16)])
def test_a_mask_may_be_one_for_all_or_one_an_image(var, tok, shape):
    expected = inpaint(var, tok, IMAGES, HALF, seed=0)
    assert inpaint(var, tok, IMAGES, HALF.expand(shape), seed=0).equal(expected)


@pytest.mark.parametrize("options", [{}, {"smooth": True}, {"top_k": 1}], ids=str)
def test_another_default_type_changes_no_picture(var, tok, options):
    def draw():
        painted = inpaint(var, tok, IMAGES, HALF, seed=0, **options)
        return sample(var, tok, [0, 2], seed=0, **options), painted

    expected = draw()
    torch.set_default_dtype(torch.double)
    try:
        found = draw()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(a.equal(b) for a, b in zip(found, expected))


def test_no_labels_give_no_images(var, tok):
    images, tokens = sample(var, tok, [], seed=0, return_tokens=True)
    assert images.shape == (0, 1, 16, 16)
    assert [t.shape for t in tokens] == [(0, 1, 1), (0, 2, 2), (0, 4, 4)]


# ------------------------------------------------------------------- traced, exported, vmapped


class Call(nn.Module):
    """A method as a module, which is what exporters take."""

    def __init__(self, model, name):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, inputs):
        return getattr(self.model, self.name)(inputs)


def exportable(name, batch):
    """A model or a method of one, and what it is called with."""
    images = random_images(batch)
    tokens = make_tokenizer().encode(images)
    if name == "VAR":
        teacher = make_quantizer(SCHEDULE).teacher_inputs(tokens)
        return make_var(SCHEDULE), (torch.arange(batch) % 3, teacher)
    return Call(make_tokenizer(attention=True), name), (tokens if name == "decode" else images,)


def any_batch(inputs):
    size = torch.export.Dim("batch", min=1)
    return pytree.tree_map(lambda _: {0: size}, inputs)


def exported(network, inputs):
    return torch.export.export(network, inputs, dynamic_shapes=any_batch(inputs)).module()


def as_onnx(network, inputs):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    return torch.onnx.export(network, inputs, dynamo=True, dynamic_shapes=any_batch(inputs))


def compiled(network, inputs):
    return torch.compile(network, backend="eager", fullgraph=True)


def vmapped(network, inputs):
    def call(*inputs):
        alone = pytree.tree_map(lambda x: x[:, None], inputs)
        return pytree.tree_map(lambda x: x.squeeze(1), torch.vmap(network)(*alone))

    return call


@pytest.mark.parametrize("make", [exported, as_onnx, compiled, torch.jit.trace, vmapped])
@pytest.mark.parametrize("name", ["VAR", "encode", "features", "decode"])
@torch.no_grad()
def test_models_are_exported_compiled_traced_and_vmapped(name, make):
    """The checks step aside; what comes out gives the same, also for a batch of another size."""
    network, inputs = exportable(name, 3)
    found = make(network, inputs)
    for batch in (3, 5):
        _, inputs = exportable(name, batch)
        pair = map(pytree.tree_leaves, (found(*inputs), network(*inputs)))
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------- what is refused


def replaced(k, map_):
    return [map_ if i == k else t for i, t in enumerate(TOKENS)]


def grey(value):
    return torch.full((2, 1, 16, 16), value)


BAD_IMAGES = [
    (torch.zeros(2, 3, 16, 16), "(2, 3, 16, 16) | (B, 1, 16, 16)"),
    (torch.zeros(1, 16, 16), "(1, 16, 16)"),
    (torch.zeros(0, 1, 16, 16), "no image | at least one"),
    (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), "uint8 | [-1, 1]"),
    (grey(255.0), "255 | [-1, 1] | 127.5"),
    (grey(-1.5), "-1.5 | [-1, 1]"),
    (grey(math.nan), "nan | [-1, 1]"),
    ("picture.png", "a str | (B, 1, 16, 16)"),
]
BAD_TOKENS = [
    (TOKENS[:2], "2 maps | 3 maps"),
    ([*TOKENS, TOKENS[2]], "4 maps | 3 maps"),
    (torch.zeros(2, 21, dtype=torch.long), "tensor (2, 21) | 3 maps"),
    (replaced(1, TOKENS[1][:, :1]), "map 2 | (2, 1, 2) | (B, 2, 2)"),
    (replaced(1, TOKENS[1].flatten(1)), "map 2 | (2, 4)"),
    (replaced(1, TOKENS[1][:1]), "map 2 holds 1 images | 2"),  # would broadcast over the batch
    (replaced(2, TOKENS[2].float()), "map 3 | float32 | integers"),
    (replaced(2, TOKENS[2] + 12), "map 3 | [0, 12)"),
    (replaced(0, TOKENS[0] - 20), "map 1 | [0, 12)"),
]
BAD_LABELS = [
    (torch.tensor([0, 4]), "label 4 | 0 to 2 | 3"),
    ([-1, 0], "label -1"),
    (torch.tensor([0.0, 1.0]), "float32 | integers"),
    ([0.7, 1], "float64 | integers"),
    ([True, False], "bool | integers"),
    (torch.tensor([[0, 1]]), "(1, 2) | (B,)"),
    (torch.tensor(1), "integers of shape (B,)"),
    (1, "labels are 1 | list"),
    (["cat", "dog"], "cat | integer tensor"),
]
BAD_OPTIONS = [
    (dict(cfg=-1.0), "cfg | -1.0"),
    (dict(cfg=math.inf), "cfg | inf"),
    (dict(cfg=math.nan), "cfg | nan"),
    (dict(top_k=-1), "top_k | -1"),
    (dict(top_k=2.5), "top_k | 2.5"),
    (dict(top_p=1.5), "top_p | 1.5"),
    (dict(top_p=math.nan), "top_p | nan"),
    (dict(seed=-1), "seed | -1"),
    (dict(seed=2**32), "seed | 4294967296"),
    (dict(seed=0.5), "seed | 0.5"),
    (dict(batch_size=0), "batch_size | 0"),
]
BAD_MASKS = [
    (torch.zeros(16, 16), "float32 | bool"),
    (torch.zeros(8, 8, dtype=torch.bool), "(8, 8) | (16, 16)"),
    (torch.zeros(3, 16, 16, dtype=torch.bool), "(3, 16, 16) | (2, 16, 16)"),
    (HALF.numpy(), "a ndarray | bool tensor"),
]
BAD_SIZES = [
    ((), "empty"), ((0, 2), "0"), ((-1,), "-1"), ((1.5, 2), "1.5"), ((True, 2), "True"),
    (("2",), "'2'"), (((1, 2, 3),), "(1, 2, 3)"), (((2, 0),), "(2, 0)"), (4, "sizes is 4"),
    ((1, 4, 2), "2x2 is smaller than 4x4"), (((2, 3), (3, 2)), "3x2 is smaller than 2x3"),
]  # fmt: skip
CALLS = [
    *((lambda v, t, x=x: t.encode(x), w) for x, w in BAD_IMAGES),
    *((lambda v, t, x=x: t.features(x), w) for x, w in BAD_IMAGES),
    *((lambda v, t, x=x: inpaint(v, t, x, HALF), w) for x, w in BAD_IMAGES),
    *((lambda v, t, x=x: t.decode(x), w) for x, w in BAD_TOKENS),
    *((lambda v, t, x=x: as_pyramid(x, SCHEDULE, 12), w) for x, w in BAD_TOKENS),
    *((lambda v, t, x=x: sample(v, t, x), w) for x, w in BAD_LABELS),
    *((lambda v, t, x=x: v(x, TEACHER), w) for x, w in BAD_LABELS),
    *((lambda v, t, x=x: inpaint(v, t, IMAGES, HALF, x), w) for x, w in BAD_LABELS),
    *((lambda v, t, x=x: sample(v, t, [0, 1], **x), w) for x, w in BAD_OPTIONS),
    *((lambda v, t, x=x: inpaint(v, t, IMAGES, HALF, **x), w) for x, w in BAD_OPTIONS),
    *((lambda v, t, x=x: inpaint(v, t, IMAGES, x), w) for x, w in BAD_MASKS),
    *((lambda v, t, x=x: v([0, 1], torch.zeros(x)), f"{x} | (2, 20, 4)")
      for x in ((2, 21, 4), (1, 20, 4), (2, 20, 5), (2, 80))),
    (lambda v, t: inpaint(v, t, IMAGES, HALF, rule="mine"), "mine | painted, touched, paper"),
    (lambda v, t: inpaint(v, t, IMAGES, HALF, [0]), "1 labels | 2 images"),
    (lambda v, t: sample(v, t, [0], first=2), "first is 2 without a seed"),
    (lambda v, t: sample(v.train(), t, [0]), "training mode | .eval()"),
    (lambda v, t: sample(v, t.train(), [0]), "training mode | .eval()"),
    (lambda v, t: sample(t, v, [0]), "a MultiScaleVQVAE and a VAR | expected a VAR, then"),
    (lambda v, t: sample(nn.DataParallel(v), t, [0]), "a DataParallel | .module"),
    (lambda v, t: sample(v, make_tokenizer(sizes=(1, 2)), [0]), "(1, 2, 4) | (1, 2) | together"),
    (lambda v, t: sample(v, make_tokenizer(vocab_size=13), [0]), "12 codes | 13 | together"),
    (lambda v, t: sample(v, make_tokenizer(code_channels=8), [0]), "of 4 channels | of 8"),
    (lambda v, t: t.decode(TOKENS, num_scales=0), "num_scales is 0 | 1 to 3"),
    (lambda v, t: t.decode(TOKENS, num_scales=4), "num_scales is 4 | 1 to 3"),
    (lambda v, t: t.quantizer.decode(TOKENS[:1], 2), "1 maps | 2 maps"),
    (lambda v, t: t.quantizer.teacher_inputs(TOKENS[:2]), "2 maps | 3 maps"),
    (lambda v, t: t.quantizer.encode(torch.zeros(2, 4, 3, 4)), "(2, 4, 3, 4) | (B, 4, 4, 4)"),
    (lambda v, t: t.quantizer(torch.zeros(4, 4, 4)), "(4, 4, 4) | schedule"),
    (lambda v, t: SCHEDULE.unflatten(torch.zeros(2, 20)), "(2, 20) | (B, 21)"),
    # Shapes of schedules and networks.
    *((lambda v, t, x=x: ScaleSchedule(x), w) for x, w in BAD_SIZES),
    (lambda v, t: make_tokenizer(width=48), "width is 48 | 32"),
    (lambda v, t: make_tokenizer(lookup="dot"), "'dot'"),
    (lambda v, t: make_tokenizer(vocab_size=0), "vocab_size is 0"),
    (lambda v, t: make_tokenizer(num_phi=-1), "num_phi is -1"),
    (lambda v, t: make_tokenizer(multipliers=()), "multipliers"),
    (lambda v, t: make_tokenizer(patch=0), "patch is 0"),
    (lambda v, t: VAR(VARConfig(width=33, heads=2)), "33 | heads 2"),
    (lambda v, t: VAR(VARConfig(width=32, heads=0)), "heads is 0"),
    (lambda v, t: VAR(VARConfig(depth=1, width=32, heads=2, mlp_ratio=0.0)), "mlp_ratio is 0.0"),
]  # fmt: skip


@pytest.mark.parametrize("call, words", CALLS, ids=[words for _, words in CALLS])
def test_what_cannot_be_meant_is_refused_in_one_line(var, tok, call, words):
    with pytest.raises(ValueError) as error:
        call(var, tok)
    assert all(word in str(error.value) for word in words.split(" | ")), error.value
    assert "\n" not in str(error.value)
