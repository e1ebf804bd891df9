"""Copies of weights neither go stale nor leak; steps of drawing as CUDA graphs, tried on a CPU."""

import contextlib
import copy
import gc
import pickle
import weakref
from unittest import mock

import pytest
import torch
from tiny import make_tokenizer, make_var, random_images

from varmini import ScaleSchedule, inpaint, quicken, sample
from varmini.fast import copies, graphs
from varmini.fast.copies import forget, ready
from varmini.fast.layers import QuickLinear
from varmini.fast.quicken import twin
from varmini.model.sampler import Noise, generate
from varmini.runtime import machine

BF16 = dict(device_type="cpu", dtype=torch.bfloat16)


@pytest.fixture
def bfloat16(monkeypatch):
    """Drawing in bfloat16 without autocast, also on a machine that is slow at it."""
    monkeypatch.setenv("VARMINI_PRECISION", "bfloat16")
    machine.precision.cache_clear()
    yield
    monkeypatch.undo()
    machine.precision.cache_clear()


@pytest.fixture
def var():
    return quicken(make_var(ScaleSchedule((1, 2, 4))))


@pytest.fixture
def tok():
    return quicken(make_tokenizer())


def copy_of(module):
    with torch.no_grad(), torch.autocast(**BF16):
        return ready(module)


def step_of(model):
    with torch.no_grad(), torch.autocast(**BF16):
        x, modulations, head = model.condition(torch.tensor([0]))
        return model.step(0, x, modulations, head, model.new_cache(1))


# ------------------------------------------------------------------------------------------ drawing


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


def test_what_was_drawn_can_be_trained_on(bfloat16, tok, var):
    images, tokens = sample(var, tok, [0, 1], seed=0, return_tokens=True)
    assert not any(x.is_inference() for x in (images, *tokens))
    tok.train()
    tok(images).images.sum().backward()  # keeps `images` for the encoder's gradient
    assert tok.encoder.conv_in.weight.grad.abs().sum() > 0


# ------------------------------------------------------------------------------------------- copies


def test_a_copy_is_made_once_and_shows_nowhere(var):
    before = var.state_dict()
    sizes = len(pickle.dumps(var))
    made = copy_of(var)
    assert made is not var and made is copy_of(var)
    assert var.head.weight.dtype == torch.float32 and made.head.weight.dtype == torch.bfloat16
    assert made.position is var.position  # what is no product's weight is shared
    assert var.state_dict().keys() == before.keys()
    assert all(var.state_dict()[k].data_ptr() == v.data_ptr() for k, v in before.items())
    assert len(pickle.dumps(var)) == sizes
    assert copy_of(copy.deepcopy(var)) is not made
    assert copy_of(made) is made
    assert var.head.weight.untyped_storage().resizable()  # as those who offload weights need it


def optimizer_step(var):
    """One step of fused AdamW, which writes weights by a kernel of its own."""
    var.head.weight.grad = torch.ones_like(var.head.weight)
    torch.optim.AdamW([var.head.weight], lr=0.1, fused=True).step()


@pytest.mark.parametrize("change", [
    lambda v: torch.nn.init.ones_(v.head.bias),
    lambda v: v.head.weight.data.mul_(1.5),  # which no version counts
    lambda v: v.load_state_dict({k: 2 * t for k, t in v.state_dict().items()}),
    lambda v: setattr(v, "head", QuickLinear(32, 12)),
    optimizer_step,
], ids=["init", "data", "load", "new layer", "fused AdamW"])  # fmt: skip
def test_a_changed_weight_gets_a_new_copy(var, change):
    made, old = copy_of(var), step_of(copy_of(var))
    with torch.no_grad():
        change(var)
    assert copy_of(var) is not made
    new = step_of(copy_of(var))
    assert not new.equal(old)
    torch.testing.assert_close(new, step_of(var), rtol=0.03, atol=0.03)


def test_training_drops_the_copies(var, tok):
    for model, part in ((var, var), (tok, tok.decoder)):
        copy_of(part)
        assert part in copies._COPIES
        model.train()
        assert part not in copies._COPIES
        assert copy_of(part) is part  # no copy in training mode
        model.eval()
    copy_of(var)
    forget(var)
    assert var not in copies._COPIES


def test_no_copy_where_it_would_be_wrong(var):
    with torch.autocast(**BF16):
        assert ready(var) is var  # gradients may be asked for
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        assert ready(var) is var
    with torch.no_grad(), torch.autocast(**BF16):
        hook = var.blocks[0].register_forward_hook(lambda *a: None)
        assert ready(var) is var  # somebody watches
        hook.remove()
        assert ready(var) is not var
        double = copy.deepcopy(var).double()
        assert ready(double) is double


def test_a_copy_goes_with_its_model():
    var = quicken(make_var(ScaleSchedule((1, 2))))
    watched = [weakref.ref(var), weakref.ref(copy_of(var))]
    assert watched[1]() is not None
    del var
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_a_plain_model_is_drawn_by_a_twin_that_shares_its_weights():
    var = make_var(ScaleSchedule((1, 2, 4)))
    made = twin(var)
    assert made is twin(var) and type(var).__name__ == "VAR"
    assert all(a is b for a, b in zip(var.parameters(), made.parameters()))
    var.head.register_forward_hook(lambda *a: None)
    assert twin(var) is var  # somebody watches, so the plain model draws


def test_a_hook_on_a_plain_model_sees_every_scale():
    var, tok, seen = make_var(ScaleSchedule((1, 2, 4))), make_tokenizer(), []
    sample(var, tok, [0], seed=0)
    var.head.register_forward_hook(lambda layer, given, out: seen.append(out.shape[1]))
    sample(var, tok, [0], seed=0)
    assert seen == [1, 4, 16]


# ------------------------------------------------------------------------------------------- graphs


@pytest.fixture
def replayed(monkeypatch):
    """Steps recorded on a CPU: replaying a graph is here to run its function again."""
    calls = []

    def record(run, device):
        calls.append(run)
        return run

    monkeypatch.setattr(graphs, "record", record)
    monkeypatch.setattr(graphs, "suits", lambda var, rows: var.laid_out)
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
        painted.append(inpaint(var, tok, images, mask, [0, 1], seed=0))
    for results in (drawn, painted):
        assert all(r.equal(results[0]) for r in results)
    assert len(replayed) == len(tok.schedule)


def test_two_draws_that_take_turns_do_not_share_a_memory(bfloat16, tok, var, replayed):
    def draw(seed):
        noise = Noise(seed, 0, 1, torch.device("cpu"))
        return generate(ready(var), tok, torch.tensor([1]), noise, top_k=0, top_p=0.0)

    with torch.no_grad(), torch.autocast(**BF16):
        alone = [[tokens for tokens, _ in draw(seed)] for seed in (0, 1)]
        turns = [(a, b) for (a, _), (b, _) in zip(draw(0), draw(1), strict=True)]
    assert all(a.equal(x) and b.equal(y) for (a, b), x, y in zip(turns, *alone))
    kept = len(graphs._KEPT)
    forget(var)
    gc.collect()
    assert len(graphs._KEPT) == kept - 1  # the recorded steps go with the copy


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
    assert not graphs.suits(copy_of(var), 2)  # on a CPU
    on_gpu = mock.Mock(**{"head.weight.device.type": "cuda", "laid_out": True})
    assert graphs.suits(on_gpu, graphs.LARGEST)
    assert not graphs.suits(on_gpu, graphs.LARGEST + 1)
    on_gpu.laid_out = False  # weights that may be replaced
    assert not graphs.suits(on_gpu, 2)
