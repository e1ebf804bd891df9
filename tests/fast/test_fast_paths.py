"""Every quick path equals the plain one, and its copies of weights neither go stale nor leak."""

import contextlib
import copy
import gc
import pickle
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from tiny import make_quantizer, make_tokenizer, make_var, random_features, random_images
from torch import Tensor

from varmini import ScaleSchedule, sample
from varmini.experiments.bench import plain
from varmini.fast import graphs
from varmini.fast.layers import _GELU, Doubling, Linear
from varmini.model import quantizer, sampler, tokenizer
from varmini.model.attention import KVCache, attend, block_causal, spans
from varmini.model.block import split_modulations
from varmini.model.filters import filter_logits
from varmini.model.sampler import generate
from varmini.runtime import precision
from varmini.runtime.machine import can_compile
from varmini.runtime.precision import forget, ready

SIZES = (1, (1, 2), 2, 2, (2, 3), 3, 3, (3, 4), 4, 5)
BF16 = dict(device_type="cpu", dtype=torch.bfloat16)


@pytest.fixture
def float32(monkeypatch):
    """Sampling in float32 without autocast."""
    monkeypatch.setenv("VARMINI_PRECISION", "float32")
    precision.precision.cache_clear()
    yield
    monkeypatch.undo()
    precision.precision.cache_clear()


@pytest.fixture
def bfloat16(monkeypatch):
    """Sampling in bfloat16 without autocast, also on a machine that is slow at it."""
    monkeypatch.setenv("VARMINI_PRECISION", "bfloat16")
    precision.precision.cache_clear()
    yield
    monkeypatch.undo()
    precision.precision.cache_clear()


def inputs_for(var, batch):
    generator = torch.Generator().manual_seed(batch)
    rows = var.schedule.num_tokens - var.schedule.tokens_per_scale[0]
    labels = torch.randint(var.config.num_classes + 1, (batch,), generator=generator)
    return labels, torch.randn(batch, rows, var.config.code_channels, generator=generator)


def relative(a, b):
    """Distance of a to b in units of b's length."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12)).item()


# ------------------------------------------------------------------------------------ training step


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scales", range(1, 11))
def test_forward_and_all_gradients_equal_the_plain_path(scales, shared):
    var = make_var(ScaleSchedule(SIZES[:scales]), shared_adaln=shared, qk_norm=scales != 4)
    for batch in range(1, 6):
        labels, teacher = inputs_for(var, batch)
        weights = torch.randn(batch, var.schedule.num_tokens, 12)
        quick, slow = var(labels, teacher), plain.forward(var, labels, teacher)
        torch.testing.assert_close(quick, slow, rtol=0, atol=1e-4)
        names, parameters = zip(*var.named_parameters())
        ours, theirs = (
            torch.autograd.grad((logits * weights).sum(), parameters, allow_unused=True)
            for logits in (quick, slow)
        )
        for name, a, b in zip(names, ours, theirs):
            assert (a is None) == (b is None), name
            assert a is None or (a - b).norm() <= 1e-4 * b.norm() + 1e-6, name
        torch.testing.assert_close(cached_logits(var, labels, teacher), slow, rtol=0, atol=1e-4)


@torch.no_grad()
def cached_logits(var, labels, teacher):
    """Scale by scale with the cache, as sampling goes: (B, L, V)."""
    x, modulations, head = var.condition(labels)
    cache, rows = KVCache(var, len(labels)), []
    for k, part in enumerate(var.schedule.slices):
        x = x if k == 0 else var.word(teacher[:, part.start - 1 : part.stop - 1])
        rows.append(var.step(k, x, modulations, head, cache))
    return torch.cat(rows, 1)


@pytest.mark.parametrize("large", [1, 4, 9, 999])
@pytest.mark.parametrize("heated", [True, False])
def test_attention_in_rectangles_is_the_masked_formula(large, heated):
    """Values and, by finite differences, gradients, wherever the mask is cut."""
    schedule = ScaleSchedule((1, 2, 3))
    mask = schedule.mask()
    parts = spans(schedule, mask, large)
    assert len(parts) == {1: 3, 4: 3, 9: 2, 999: 1}[large]
    seen = torch.zeros_like(mask)
    for at, stop, inside in parts:
        seen[at, :stop] = True if inside is None else inside
    assert seen.equal(mask)
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
    torch.testing.assert_close(block_causal(qkv, scale, parts), wanted)
    given = (qkv, scale) if heated else (qkv,)
    weights = torch.randn_like(wanted)
    for a, b in zip(
        torch.autograd.grad((block_causal(qkv, scale, parts) * weights).sum(), given),
        torch.autograd.grad((wanted * weights).sum(), given),
    ):
        torch.testing.assert_close(a, b)
    # The input is left alone: the norms are divided out of a copy.
    assert qkv.detach().norm(dim=-1).std() > 0.1


def test_gelu_and_its_slope():
    z = torch.linspace(-9, 9, 4001, dtype=torch.double).view(1, -1, 1)
    for kind, near in ((torch.float32, 4e-6), (torch.bfloat16, 2**-7)):
        own, theirs = (z.to(kind).requires_grad_() for _ in range(2))
        a, b = _GELU.apply(own), F.gelu(theirs.double(), approximate="tanh")
        torch.testing.assert_close(a.double(), b, rtol=near, atol=near / 4)
        a.sum().backward(), b.sum().backward()
        torch.testing.assert_close(own.grad, theirs.grad, rtol=near, atol=near / 2)


def test_linear_under_autocast_has_the_gradients_of_torchs():
    torch.manual_seed(0)
    own = Linear(24, 40)
    theirs = torch.nn.Linear(24, 40)
    theirs.load_state_dict(own.state_dict())
    x = torch.randn(3, 7, 24)
    weights = torch.randn(3, 7, 40)
    results = []
    for layer, options in ((own, dict(gelu=True)), (theirs, {})):
        given = x.clone().requires_grad_()
        with torch.autocast(**BF16):
            y = layer(given, **options)
            y = y if options else F.gelu(y, approximate="tanh")
        (y.float() * weights).sum().backward()
        assert layer.weight.grad.dtype == given.grad.dtype == torch.float32
        results.append((y, given.grad, layer.weight.grad, layer.bias.grad))
    for a, b in zip(*results):
        assert relative(a, b) < 0.01


def test_bf16_logits_and_gradients_are_near_a_float64_reference():
    var = make_var(ScaleSchedule((1, 2, 3, 4)), std=0.15, depth=3).double()
    labels, teacher = inputs_for(var, 4)
    targets = torch.randint(12, (4, 30), generator=torch.Generator().manual_seed(0))

    def step(model, teacher):
        logits = model(labels, teacher)
        F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()).backward()
        return logits.detach(), {n: p.grad for n, p in model.named_parameters()}

    exact, wanted = step(var, teacher.double())
    single = make_var(ScaleSchedule((1, 2, 3, 4)), std=0.15, depth=3)
    with torch.autocast(**BF16):
        logits, gradients = step(single, teacher)
    assert relative(logits, exact) < 0.02
    for name, gradient in wanted.items():
        assert gradients[name].dtype == torch.float32
        assert relative(gradients[name], gradient) < 0.06, name


# ----------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scales", range(1, 11))
def test_samples_have_the_tokens_of_the_plain_path(scales, shared, float32):
    schedule = ScaleSchedule(SIZES[-scales:])
    var = make_var(schedule, seed=scales, shared_adaln=shared)
    tok = make_tokenizer(sizes=schedule.sizes, multipliers=(1, 1))
    for batch in range(1, 6):
        labels = [i % 4 for i in range(batch)]
        options = dict(cfg=2.0, top_k=7, top_p=0.9, seed=batch)
        images, tokens = sample(var, tok, labels, **options, return_tokens=True)
        slow, theirs = plain.sample(var, tok, labels, **options)
        for ours, wanted in zip(tokens, theirs):
            assert ours.equal(wanted)
        torch.testing.assert_close(images, slow, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(2, 5, 40), (1, 1), (3, 1, 2)])
@pytest.mark.parametrize(
    "top_k, top_p", [(0, 0.0), (1, 0.0), (3, 0.5), (0, 0.9), (99, 1.0), (2, 0.01)]
)
def test_filters_keep_what_a_sort_with_places_keeps(shape, top_k, top_p):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3
    wanted = plain.filter_logits(logits, top_k, top_p)
    assert filter_logits(logits, top_k, top_p).equal(wanted)
    assert filter_logits(logits.double(), top_k, top_p).isinf().equal(wanted.isinf())


def test_ties_at_the_end_of_the_nucleus_stay():
    logits = torch.tensor([2.0, 1.0, 1.0, 0.0])
    assert filter_logits(logits, top_p=0.6).isfinite().tolist() == [True, True, True, False]


def test_greedy_drawing_is_float32_whatever_the_machine_likes(bfloat16, tok, var):
    options = dict(seed=0, top_k=1, return_tokens=True)
    images, tokens = sample(var, tok, [0, 1, 2], **options)
    assert images.equal(tok.decode(tokens))  # which runs in float32 here
    with torch.autocast(**BF16):  # but a surrounding autocast is respected
        rounded = sample(var, tok, [0, 1, 2], **options)[0]
    assert not rounded.equal(images)


@torch.no_grad()
def test_without_autocast_sampling_equals_sampling_under_it(bfloat16, tok, var):
    own = sample(var, tok, [0, 1, 2], seed=0, return_tokens=True)
    with torch.autocast(**BF16):
        around = sample(var, tok, [0, 1, 2], seed=0, return_tokens=True)
        assert own[0].equal(tok.decode(own[1]))
    assert own[0].equal(around[0]) and all(a.equal(b) for a, b in zip(own[1], around[1]))
    assert not torch.is_autocast_enabled("cpu")


@torch.no_grad()
def test_bf16_steps_are_near_a_float64_reference():
    """Logits of all scales by the cached path on laid-out weights, and f_hat to pixels."""
    schedule = ScaleSchedule((1, 2, 3, 4))
    var = make_var(schedule, std=0.15, depth=3)
    labels, teacher = inputs_for(var, 4)
    exact = plain.forward(copy.deepcopy(var).double(), labels, teacher.double())
    errors = []
    for function in (lambda m: m, ready):
        with torch.autocast(**BF16):
            model = function(var)
            x, modulations, head = model.condition(labels)
            cache, rows = KVCache(model, 4, torch.bfloat16), []
            for k, part in enumerate(schedule.slices):
                x = x if k == 0 else model.word(teacher[:, part.start - 1 : part.stop - 1])
                rows.append(model.step(k, x, modulations, head, cache))
        errors.append(relative(torch.cat(rows, 1), exact))
    assert model is not var and max(errors) < 0.02
    assert errors[1] < 1.3 * errors[0]  # laying out costs no accuracy over plain autocast
    tok = make_tokenizer(multipliers=(1, 2, 1), attention=True, patch=1)
    f_hat = random_features(tok.schedule, 2)
    exact = plain.decode_features(copy.deepcopy(tok).double(), f_hat.double())
    with torch.autocast(**BF16):
        usual = relative(plain.decode_features(tok, f_hat), exact)
        own = relative(tok.decode_features(f_hat), exact)
    assert own < 0.05 and own < 1.3 * usual
    torch.testing.assert_close(tok.decode_features(f_hat).double(), exact, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("rows, keys", [(1, 5), (32, 5), (1, 40)])
def test_drawing_attends_by_hand_as_by_the_formula(rows, keys, monkeypatch):
    torch.manual_seed(0)
    q, k = torch.randn(rows, 2, 3, 16), torch.randn(rows, 2, keys, 16)
    v = torch.randn_like(k)
    fused = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **o: fused.append(1) or kernel(*a, **o)
    )
    wanted = (q.double() @ k.double().mT).softmax(-1) @ v.double()
    assert relative(attend(*(x.bfloat16() for x in (q, k, v))), wanted) < 2e-2
    assert len(fused) == (keys < 32)  # whatever the batch, which may be cut into parts


def test_what_was_drawn_can_be_trained_on(bfloat16, tok, var):
    images, tokens = sample(var, tok, [0, 1], seed=0, return_tokens=True)
    assert not any(x.is_inference() for x in (images, *tokens))
    tok.train()
    tok(images).images.sum().backward()  # keeps `images` for the encoder's gradient
    assert tok.encoder.conv_in.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------- made for a GPU, tried on a CPU


@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler")
def test_a_compiled_block_equals_the_eager_one():
    torch.manual_seed(0)
    var = make_var(ScaleSchedule((1, 2, 3)), depth=1)
    block, parts = var.blocks[0], spans(var.schedule, var.mask, large=9)
    given = torch.randn(2, 14, var.config.width), torch.randn(1, 2, 6, var.config.width)
    given = tuple(x.requires_grad_() for x in given)
    asked = *given, *block.parameters()
    found = []
    for form in (block, torch.compile(block.forward)):
        out = form(given[0], split_modulations(given[1], torch.float32)[0], parts)
        found.append((out, *torch.autograd.grad(out.square().sum(), asked)))
    for eager, compiled in zip(*found):
        assert relative(compiled, eager) < 1e-4


@pytest.fixture
def replayed(monkeypatch):
    """Steps recorded on a CPU: replaying a graph is here to run its function again."""
    calls = []

    def record(run, device):
        calls.append(run)
        return run

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "suits", lambda var, rows, laid_out: laid_out)
    return calls


def test_recorded_steps_draw_the_same(bfloat16, tok, var, monkeypatch, replayed):
    with monkeypatch.context() as m:
        m.setattr(graphs, "suits", lambda *_: False)
        wanted = [sample(var, tok, [0, 1], seed=s, return_tokens=True)[1] for s in (0, 1)]
        others = sample(var, tok, [1, 0], seed=0, return_tokens=True)[1]
    assert not replayed and not all(a.equal(b) for a, b in zip(others, wanted[0]))
    for n, seed in enumerate((0, 1, 0, 1)):  # recorded at the second draw, then replayed
        drawn = sample(var, tok, [0, 1], seed=seed, return_tokens=True)[1]
        assert all(a.equal(b) for a, b in zip(drawn, wanted[seed]))
        assert len(replayed) == min(n, 1) * len(tok.schedule)
    turned = sample(var, tok, [1, 0], seed=0, return_tokens=True)[1]  # a replay, other classes
    assert all(a.equal(b) for a, b in zip(turned, others))
    for n in range(2):  # another size: new memory
        drawn = sample(var, tok, [0], seed=0, return_tokens=True)[1]
        assert all(a.equal(b[:1]) for a, b in zip(drawn, wanted[0]))
        assert len(replayed) == (1 + n) * len(tok.schedule)


def test_recorded_steps_serve_inference_mode_and_no_grad(bfloat16, tok, var, replayed):
    images, mask = random_images(2), torch.ones(16, 16, dtype=torch.bool)
    drawn, painted = [], []
    for _ in range(3):  # the one in inference mode, the other without gradients
        drawn.append(sample(var, tok, [0, 1], seed=0))
        painted.append(sampler.inpaint(var, tok, images, mask, [0, 1], seed=0))
    for results in (drawn, painted):
        assert all(r.equal(results[0]) for r in results)
    assert len(replayed) == len(tok.schedule)


def test_two_draws_that_take_turns_do_not_share_a_memory(bfloat16, tok, var, replayed):
    def draw(seed):
        noise = sampler._Noise(seed, 0, 1, torch.device("cpu"))
        return generate(var, tok, torch.tensor([1]), 1.5, 0, 0.0, noise)

    with torch.no_grad(), torch.autocast(**BF16):
        alone = [[tokens for _, _, tokens, _ in draw(seed)] for seed in (0, 1)]
        turns = [
            (a, b) for (_, _, a, _), (_, _, b, _) in zip(draw(0), draw(1), strict=True)
        ]  # fmt: skip
    assert all(a.equal(x) and b.equal(y) for (a, b), x, y in zip(turns, *alone))
    assert len(replayed) == len(tok.schedule)
    copies = len(graphs._KEPT)
    forget(var)
    gc.collect()
    assert len(graphs._KEPT) == copies - 1  # the recorded steps go with the copy


def test_where_recording_fails_drawing_goes_on(bfloat16, tok, var, replayed, monkeypatch):
    wanted = sample(var, tok, [0], seed=0)
    forget(var)

    def record(run, device):
        raise RuntimeError("no graph today")

    monkeypatch.setattr(graphs, "record", record)
    assert sample(var, tok, [0], seed=0).equal(wanted)  # nothing is recorded yet
    with pytest.warns(UserWarning, match="goes on without a CUDA graph: no graph today"):
        assert sample(var, tok, [0], seed=0).equal(wanted)


class FakeCuda:
    """torch.cuda as far as a recording goes: names for streams, and one capture that may fail."""

    def __init__(self, fails):
        self.now, self.capturing, self.fails, self.waits = "main", False, fails, []

    def current_stream(self, device):
        return self.Stream(device, "main")

    def Stream(self, device, name="aside"):
        stream = mock.Mock(**{"__str__": lambda _: name})
        stream.wait_stream = lambda other: self.waits.append(f"{name} for {other}")
        return stream

    def CUDAGraph(self):
        return mock.Mock(replay="replay")

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, str(stream)
        try:
            yield
        finally:
            self.now = before

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        before, self.now, self.capturing = self.now, str(stream), True
        yield
        if self.fails:  # as torch's own, which then stays on the stream of the capture
            raise RuntimeError("capture invalidated")
        self.now, self.capturing = before, False


@pytest.mark.parametrize("fails", [False, True])
def test_a_recording_runs_aside_and_comes_back(monkeypatch, fails):
    cuda, runs = FakeCuda(fails), []
    monkeypatch.setattr(torch, "cuda", cuda)
    graphs._aside.cache_clear()
    expected = pytest.raises(RuntimeError) if fails else contextlib.nullcontext()
    with expected:
        replay = graphs.record(lambda: runs.append((cuda.now, cuda.capturing)), "cuda:1")
        assert replay == "replay"
    graphs._aside.cache_clear()
    assert runs == [("aside", False)] * 3 + [("aside", True)]
    assert cuda.waits == ["aside for main", "main for aside"] and cuda.now == "main"


def test_steps_are_recorded_for_small_batches_on_a_gpu_alone(var):
    assert not graphs.suits(var, 2, True)  # on a CPU
    on_gpu = mock.Mock(**{"head.weight.device.type": "cuda"})
    assert graphs.suits(on_gpu, graphs.LARGEST, True)
    assert not graphs.suits(on_gpu, graphs.LARGEST + 1, True)
    assert not graphs.suits(on_gpu, 2, False)  # weights that may be replaced


# ---------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 3)])
def test_doubling_is_repeating_then_convolving(size):
    torch.manual_seed(0)
    layer = Doubling(4).double()
    x = torch.randn(3, 4, *size, dtype=torch.double, requires_grad=True)
    wanted = layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    own = layer(x)
    torch.testing.assert_close(own, wanted)
    weights = torch.randn_like(wanted)
    given = x, layer.conv.weight, layer.conv.bias
    for a, b in zip(
        torch.autograd.grad((own * weights).sum(), given),
        torch.autograd.grad((wanted * weights).sum(), given),
    ):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_encoding_and_decoding_in_pieces_changes_nothing(monkeypatch, tok):
    f_hat, images = random_features(tok.schedule, 5), random_images(5)
    results = []
    for few in (1, 2, 5):  # images at a time
        size = few * 2 * 32 * 8 * 8  # of the widest map: bf16, 32 channels, patches of 2
        monkeypatch.setattr(tokenizer, "MAP_BYTES", size)
        with torch.autocast(**BF16):
            with mock.patch.object(Tensor, "split", autospec=True, side_effect=Tensor.split) as cut:
                results.append((tok.decode_features(f_hat), tok.features(images)))
        # Four times as many where a map has a quarter of the pixels; the encoder's come last.
        # Before, some 16 images or more are kept apart, however large the batch.
        sizes, group = [call.args[1] for call in cut.call_args_list], max(16, 4 * few)
        assert sizes == [group, 4 * few, few, group, few, 4 * few]
    for decoded, features in results[:2]:
        assert relative(decoded, results[2][0]) < 0.01
        assert relative(features, results[2][1]) < 0.01


@torch.no_grad()
@pytest.mark.parametrize("watched", ["decoder", "decoder.middle", "encoder.levels", "encoder"])
def test_what_is_watched_is_called_as_a_whole(watched, tok):
    seen = []
    tok.get_submodule(watched).register_forward_hook(lambda *_: seen.append(1))
    with torch.autocast(**BF16):
        tok.decode_features(random_features(tok.schedule, 2))
        tok.features(random_images(2))
    assert seen == [1]


@torch.no_grad()
def test_few_images_are_on_their_way_together(monkeypatch, tok):
    """However large the batch, or the maps that are joined between levels would fill the memory."""
    joined, cat = [], torch.cat
    monkeypatch.setattr(tokenizer, "MAP_BYTES", 1)
    monkeypatch.setattr(torch, "cat", lambda maps: joined.append(len(maps)) or cat(maps))
    with torch.autocast(**BF16):
        tok.decode_features(random_features(tok.schedule, 50))
        tok.features(random_images(50))
    # Both join after two levels each what 16, 16, 16 and 2 images were, one by one; then 4 groups.
    assert joined == 2 * [16, 16, 16, 16, 16, 16, 2, 2, 4]


@pytest.mark.parametrize("lookup", ["euclidean", "cosine"])
def test_looking_up_in_pieces_changes_nothing(lookup, monkeypatch):
    own = make_quantizer(ScaleSchedule((1, 3, 5)), lookup=lookup)
    f = random_features(own.schedule, 3)
    whole = own.encode(f)
    monkeypatch.setattr(quantizer, "LOOKUP_BYTES", 7 * 4 * own.vocab_size)
    assert all(a.equal(b) for a, b in zip(own.encode(f), whole))
    monkeypatch.setattr(quantizer, "LOOKUP_BYTES", 0)
    assert all(a.equal(b) for a, b in zip(own.encode(f), whole))


# --------------------------------------------------------------------- copies with laid-out weights


def twin_of(module):
    with torch.no_grad(), torch.autocast(**BF16):
        return ready(module)


def logits_of(var):
    """Of the first scale, by the copy."""
    with torch.no_grad(), torch.autocast(**BF16):
        model = ready(var)
        x, modulations, head = model.condition(torch.tensor([0]))
        return model.step(0, x, modulations, head, KVCache(model, 1, torch.bfloat16))


def test_a_copy_is_made_once_and_shows_nowhere(var):
    before = var.state_dict()
    sizes = len(pickle.dumps(var))
    twin = twin_of(var)
    assert twin is not var and twin is twin_of(var)
    assert var.head.weight.dtype == torch.float32 and twin.head.weight.dtype == torch.bfloat16
    assert twin.position is var.position  # what is no product's weight is shared
    assert var.state_dict().keys() == before.keys()
    assert all(var.state_dict()[k].data_ptr() == v.data_ptr() for k, v in before.items())
    assert len(pickle.dumps(var)) == sizes
    assert twin_of(copy.deepcopy(var)) is not twin
    assert var.head.weight.untyped_storage().resizable()  # as those who offload weights need it


def optimizer_step(var):
    """One step of fused AdamW, which writes weights by a kernel of its own."""
    var.head.weight.grad = torch.ones_like(var.head.weight)
    torch.optim.AdamW([var.head.weight], lr=0.1, fused=True).step()


@pytest.mark.parametrize("change", [
    lambda v: torch.nn.init.ones_(v.head.bias),
    lambda v: v.head.weight.data.mul_(1.5),  # which no version counts
    lambda v: v.load_state_dict({k: 2 * t for k, t in v.state_dict().items()}),
    lambda v: setattr(v, "head", Linear(32, 12)),
    optimizer_step,
], ids=["init", "data", "load", "new layer", "fused AdamW"])  # fmt: skip
def test_a_changed_weight_gets_a_new_copy(var, change):
    old = logits_of(var)
    twin = twin_of(var)
    with torch.no_grad():
        change(var)
    assert twin_of(var) is not twin
    new = logits_of(var)
    assert not new.equal(old)
    with torch.no_grad(), torch.autocast(**BF16):
        x, modulations, head = var.condition(torch.tensor([0]))
        wanted = var.step(0, x, modulations, head, KVCache(var, 1, torch.bfloat16))
    torch.testing.assert_close(new, wanted, rtol=0.03, atol=0.03)


def test_training_drops_the_copies(var, tok):
    for model in (var, tok):
        part = model.decoder if model is tok else model
        twin_of(part)
        assert part in precision._COPIES
        model.train()
        assert part not in precision._COPIES
        assert twin_of(part) is part  # no copy in training mode
        model.eval()
    twin_of(var)
    forget(var)
    assert var not in precision._COPIES


def test_no_copy_where_it_would_be_wrong(var):
    with torch.autocast(**BF16):
        assert ready(var) is var  # gradients may be asked for
    with torch.no_grad():
        assert ready(var) is var  # float32
        with torch.autocast("cpu", torch.float16):
            assert ready(var) is var
        with torch.autocast(**BF16):
            seen = []
            hook = var.blocks[0].register_forward_hook(lambda *a: seen.append(1))
            assert ready(var) is var  # somebody watches
            hook.remove()
            assert ready(var) is not var
            double = copy.deepcopy(var).double()
            assert ready(double) is double


def test_a_copy_goes_with_its_model():
    before = len(precision._COPIES)
    var = make_var(ScaleSchedule((1, 2)))
    twin_of(var)
    assert len(precision._COPIES) == before + 1
    del var
    assert len(precision._COPIES) == before


def test_the_loop_alone_is_float32(var, tok):
    """`generate` without autocast, as the evaluation of in-painting uses it."""
    noise = sampler._Noise(0, 0, 2, torch.device("cpu"))
    with torch.no_grad():
        *_, (k, codes, tokens, f_hat) = generate(var, tok, torch.tensor([0, 1]), 1.5, 0, 0.0, noise)
    assert k == 2 and f_hat.dtype == torch.float32 and var not in precision._COPIES
