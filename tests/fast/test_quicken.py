"""Every quick form equals its plain class, in every type of numbers, or is not used here."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import make_quantizer, make_tokenizer, make_var, random_features, random_images
from torch import nn

from varmini import ScaleSchedule, inpaint, quicken, sample
from varmini.fast import layers, tokenizer, trial
from varmini.fast.attention import BlockCausal, attend, rectangles, spans
from varmini.fast.copies import ready
from varmini.fast.filters import filter_logits
from varmini.fast.quicken import QUICK
from varmini.model import filters, sampler
from varmini.model.autoencoder import NormSiLU, ResBlock, SpatialAttention, Upsample
from varmini.model.transformer import Attention, Block, VARConfig

SIZES = (1, (1, 2), 2, 2, (2, 3), 3, 3, (3, 4), 4, 5)
MAP, ROWS = (3, 32, 6, 5), (2, 7, 32)
BLOCK = VARConfig(width=32, heads=2, depth=1)
FORMS = {
    nn.Linear: (lambda: nn.Linear(32, 48), ROWS, ()),
    nn.Conv2d: (lambda: nn.Conv2d(32, 16, 3, stride=2, padding=1), MAP, ()),
    NormSiLU: (lambda: NormSiLU(32, 8), MAP, ()),
    ResBlock: (lambda: ResBlock(32, 64, 8), MAP, ()),
    SpatialAttention: (lambda: SpatialAttention(32, 8), MAP, ()),
    Upsample: (lambda: Upsample(32), MAP, ()),
    Attention: (lambda: Attention(32, 2, qk_norm=True), ROWS, (None,)),
    Block: (lambda: Block(BLOCK), ROWS, (torch.randn(2, 6, 32), None)),
}
forms = pytest.mark.parametrize("kind", FORMS, ids=lambda kind: kind.__name__)


def pair(kind):
    """A plain layer with random weights, the same quickened, an input and further arguments."""
    build, shape, more = FORMS[kind]
    torch.manual_seed(0)
    plain = build()
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(torch.randn_like(p) / max(1, p[0].numel()) ** 0.5)
    quick = quicken(copy.deepcopy(plain))
    assert type(quick) is QUICK[kind] and isinstance(quick, kind)
    assert quick.state_dict().keys() == plain.state_dict().keys()
    return plain.eval(), quick.eval(), torch.randn(shape), more


def relative(a, b):
    """Distance of a to b in units of b's length; what should be zero is rounding (1e-6)."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-2)).item()


def test_the_table_of_quick_forms_is_tested_whole():
    tested_below = {"MultiScaleQuantizer", "MultiScaleVQVAE", "VAR"}
    assert {kind.__name__ for kind in QUICK} == {kind.__name__ for kind in FORMS} | tested_below


@forms
def test_values_and_gradients_are_those_of_the_plain_class(kind):
    plain, quick, x, more = pair(kind)
    for order in (torch.contiguous_format, torch.channels_last)[: 1 + (x.ndim == 4)]:
        found = []
        for layer in (plain, quick):
            given = x.clone(memory_format=order).requires_grad_()
            out = layer(given, *more)
            asked = [given, *layer.parameters()]
            weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
            found.append((out, *torch.autograd.grad((out * weights).sum(), asked)))
        for theirs, ours in zip(*found):
            assert relative(ours, theirs) < 1e-4


@forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_laid_out_copy_is_near_float64_and_no_worse_than_the_plain_class(kind, dtype):
    plain, quick, x, more = pair(kind)
    with torch.no_grad():
        more64 = [m if m is None else m.double() for m in more]
        exact = copy.deepcopy(plain).double()(x.double(), *more64)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            given = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
            errors = [relative(layer(given, *more), exact) for layer in (plain, ready(quick))]
    assert errors[1] < max(1.5 * errors[0], 1e-5 if dtype is torch.float32 else 0.02)


@forms
def test_where_a_trial_fails_the_plain_form_runs(kind, monkeypatch):
    def refuse(name, dtype):
        return False

    for module in (layers, trial, __import__("varmini.fast.transformer", fromlist=["x"])):
        monkeypatch.setattr(module, "works", refuse)
    plain, quick, x, more = pair(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert relative(ready(quick)(x, *more), plain(x, *more)) < 0.02


@pytest.mark.parametrize("name", trial.TRIALS)
def test_a_form_that_raises_or_disagrees_is_not_used(name, monkeypatch):
    def broken(dtype):
        raise RuntimeError("could not create a primitive")

    wrong = lambda dtype: (torch.ones(3), torch.zeros(3))  # noqa: E731
    for run, expected in ((broken, False), (wrong, False), (lambda d: 2 * [torch.ones(1)], True)):
        monkeypatch.setitem(trial.TRIALS, name, run)
        assert trial.works.__wrapped__(name, torch.float32) is expected
    assert not trial.works(name, torch.float16)


def test_a_trial_leaves_the_random_numbers_alone():
    before = torch.get_rng_state()
    trial.works.__wrapped__("linear", torch.float32)
    assert torch.get_rng_state().equal(before)


# ---------------------------------------------------------------------------------- the transformer


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scales", range(1, 11))
def test_teacher_forcing_and_all_gradients_equal_the_plain_model(scales, shared):
    schedule = ScaleSchedule(SIZES[:scales])
    var = make_var(schedule, shared_adaln=shared, qk_norm=scales != 4)
    fast = quicken(copy.deepcopy(var))
    for block in fast.blocks:  # also where every scale stands alone
        block.attention.parts = rectangles(schedule, large=3)
    labels = torch.tensor([0, 3, 2])
    rows = schedule.num_tokens - schedule.tokens_per_scale[0]
    teacher = torch.randn(3, rows, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(3, schedule.num_tokens, 12)
    found = []
    for model in (var, fast):
        logits = model(labels, teacher)
        grads = torch.autograd.grad(
            (logits * weights).sum(), list(model.parameters()), allow_unused=True
        )
        found.append((logits, *grads))
    for theirs, ours in zip(*found):
        assert (theirs is None) == (ours is None)
        assert theirs is None or relative(ours, theirs) < 1e-4
    with torch.no_grad():  # scale by scale, with the quick cache
        x, modulations, head = fast.condition(labels)
        cache, first = fast.new_cache(3), schedule.tokens_per_scale[0]
        for k, part in enumerate(schedule.slices):
            x = fast.word(teacher[:, part.start - first : part.stop - first]) if k else x
            step = fast.step(k, x, modulations, head, cache)
            torch.testing.assert_close(step, found[0][0][:, part], rtol=0, atol=1e-4)


@pytest.mark.parametrize("large", [1, 4, 9, 999])
@pytest.mark.parametrize("heated", [True, False])
def test_attention_in_rectangles_is_the_masked_formula(large, heated):
    """Values and, by finite differences, gradients, wherever the mask is cut."""
    schedule = ScaleSchedule((1, 2, 3))
    mask = schedule.mask()
    parts = spans(rectangles(schedule, large), mask)
    assert len(parts) == {1: 3, 4: 3, 9: 2, 999: 1}[large]
    torch.manual_seed(0)
    qkv = torch.randn(2, 14, 3, 2, 3, dtype=torch.double, requires_grad=True)
    scale = torch.tensor([[[1.5]], [[4.0]]], dtype=torch.double, requires_grad=True)
    scale = scale if heated else None
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if heated:
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    else:
        q = q / (4 * 3**0.5)
    scores = (q @ k.mT).masked_fill(~mask, float("-inf"))
    wanted = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(BlockCausal.apply(qkv, scale, parts), wanted)
    given = (qkv, scale) if heated else (qkv,)
    assert torch.autograd.gradcheck(lambda x, s=None: BlockCausal.apply(x, s, parts), given)
    # The input is left alone: the norms are divided out of a copy.
    assert qkv.detach().norm(dim=-1).std() > 0.1


@pytest.mark.parametrize("rows, keys", [(1, 5), (32, 5), (1, 40)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drawing_attends_as_by_the_formula(rows, keys, dtype):
    torch.manual_seed(0)
    q, (k, v) = torch.randn(rows, 2, 3, 8), torch.randn(2, rows, 2, keys, 8)
    wanted = (q @ k.mT).softmax(-1) @ v
    with torch.no_grad():
        found = attend(*(t.to(dtype) for t in (q, k, v)))
    assert found.dtype is dtype and relative(found, wanted) < (1e-5, 0.02)[dtype != torch.float32]


@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 1), (3, 1, 2)])
@pytest.mark.parametrize("k, p", [(0, 0.0), (1, 0.0), (3, 0.5), (0, 0.9), (99, 1.0), (2, 0.01)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.double, torch.bfloat16])
def test_filters_keep_what_the_plain_ones_keep(shape, k, p, dtype):
    logits = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    assert filter_logits(logits, k, p).equal(filters.filter_logits(logits, k, p))


# ------------------------------------------------------------------------------------ the tokenizer


@torch.no_grad()
@pytest.mark.parametrize("few", [1, 2, 5])
def test_encoding_and_decoding_in_pieces_changes_nothing(monkeypatch, few):
    tok = make_tokenizer(attention=True)
    fast = quicken(copy.deepcopy(tok))
    f_hat, images = random_features(tok.schedule, 20), random_images(20)
    monkeypatch.setattr(tokenizer, "MAP_BYTES", few * 4 * 32 * 8 * 8)  # so many images at a time
    for enabled, near in ((False, 1e-5), (True, 0.02)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            drawn, features = fast.decode_features(f_hat), fast.features(images)
        assert relative(drawn, tok.decode_features(f_hat)) < near
        assert relative(features, tok.features(images)) < near


def test_training_the_quick_tokenizer_is_training_the_plain_one():
    tok = make_tokenizer(attention=True).train()
    fast, images = quicken(copy.deepcopy(tok)), random_images(3)
    for model in (tok, fast):
        out = model(images)
        (out.images.square().mean() + out.loss).backward()
    for (name, a), b in zip(fast.named_parameters(), tok.parameters()):
        assert (a.grad is None) == (b.grad is None), name
        assert b.grad is None or relative(a.grad, b.grad) < 1e-3, name


@torch.no_grad()
@pytest.mark.parametrize("watched", ["decoder", "decoder.middle", "encoder.levels", "encoder"])
def test_what_is_watched_is_called_as_a_whole(watched):
    tok, seen = quicken(make_tokenizer()), []
    tok.get_submodule(watched).register_forward_hook(lambda *_: seen.append(1))
    tok.decode_features(random_features(tok.schedule, 2))
    tok.features(random_images(2))
    assert seen == [1]


@pytest.mark.parametrize("lookup", ["euclidean", "cosine"])
@pytest.mark.parametrize("rows", [7, 0])
def test_looking_up_in_pieces_changes_nothing(lookup, rows, monkeypatch):
    own = make_quantizer(ScaleSchedule((1, 3, 5)), lookup=lookup)
    f = random_features(own.schedule, 3)
    whole = own.encode(f)
    monkeypatch.setattr(tokenizer, "LOOKUP_BYTES", rows * 4 * own.vocab_size)
    assert all(a.equal(b) for a, b in zip(quicken(own).encode(f), whole))


# ------------------------------------------------------------- types of numbers, on every processor


def cast(dtype):
    """A pair of tiny models in `dtype`."""
    return make_var(ScaleSchedule((1, 2, 4))).to(dtype), make_tokenizer().to(dtype)


def everything(var, tok):
    """Every public call, once: what comes out must be finite."""
    images, mask = random_images(2), torch.ones(16, 16, dtype=torch.bool)
    tokens = tok.encode(images)
    found = [tok.features(images), tok.decode(tokens), tok.decode(tokens, 2), tok(images).images]
    teacher = tok.quantizer.teacher_inputs(tokens)
    found += [var(torch.tensor([0, 1]), teacher), inpaint(var, tok, images, mask, seed=0)]
    found += [sample(var, tok, [0, 1], seed=0), sample(var, tok, [0], top_k=1, smooth=True)]
    found += [sampler.sample(var, tok, [0, 1], seed=0)]
    assert all(x.isfinite().all() for x in found)


TYPES = [torch.float32, torch.bfloat16, torch.float16, torch.double]
kinds = pytest.mark.parametrize("dtype", TYPES, ids=str)


@kinds
@pytest.mark.parametrize("quick", [False, True])
def test_every_public_call_works_on_cast_models_and_under_autocast(dtype, quick):
    var, tok = cast(dtype)
    if quick:
        var, tok = quicken(var), quicken(tok)
    everything(var, tok)
    if dtype is torch.float32:
        for kind in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", kind):
                everything(var, tok)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_training_step_under_autocast_has_finite_gradients(kind):
    var, tok = (quicken(model).train() for model in cast(torch.float32))
    images = random_images(2)
    with torch.autocast("cpu", kind):
        out = tok(images)
        logits = var(torch.tensor([0, 1]), tok.quantizer.teacher_inputs(out.tokens))
        (out.images.square().mean() + out.loss + logits.square().mean()).backward()
    for p in (*var.parameters(), *tok.parameters()):
        assert p.grad is None or p.grad.isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_a_quickened_model_can_be_traced_mapped_and_differentiated_by_torch_func():
    plain = make_var(ScaleSchedule((1, 2, 4)))
    quick = quicken(copy.deepcopy(plain))
    labels, inputs = torch.tensor([0, 1]), torch.randn(2, 20, plain.config.code_channels)
    wanted = plain(labels, inputs)
    traced = torch.jit.trace(quick, (labels, inputs), check_trace=False)
    exported = torch.export.export(quick, (labels, inputs)).module()
    mapped = torch.vmap(lambda a, b: quick(a[None], b[None])[0])(labels, inputs)
    for found in (traced(labels, inputs), exported(labels, inputs), mapped):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    slope, known = (
        torch.func.grad(lambda x, m=m: m(labels, x).sum())(inputs) for m in (quick, plain)
    )
    torch.testing.assert_close(slope, known, rtol=1e-4, atol=1e-4)
