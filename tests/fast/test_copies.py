"""Copies of weights neither go stale nor leak."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from tiny import make_tokenizer, make_var

from varmini import ScaleSchedule, quicken, sample
from varmini.fast import copies
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


def test_two_draws_that_take_turns_do_not_share_a_memory(bfloat16, tok, var):
    def draw(seed):
        noise = Noise(seed, 0, 1, torch.device("cpu"))
        return generate(ready(var), tok, torch.tensor([1]), noise, top_k=0, top_p=0.0)

    with torch.no_grad(), torch.autocast(**BF16):
        alone = [[tokens for tokens, _ in draw(seed)] for seed in (0, 1)]
        turns = [(a, b) for (a, _), (b, _) in zip(draw(0), draw(1), strict=True)]
    assert all(a.equal(x) and b.equal(y) for (a, b), x, y in zip(turns, *alone))
