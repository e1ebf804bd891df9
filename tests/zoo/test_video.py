"""Video: moving garments, the causal tokenizer, InfinityStar's pyramid, MAGVIT's given frames."""

import pytest
import torch
from small_generators import flat
from tiny import redraw

from varmini import quicken
from varmini.data.motion import CLASSES, GARMENT, MovingGarments, centroid
from varmini.zoo.generators.infinity_star import InfinityStar, InfinityStarConfig
from varmini.zoo.generators.magvit import MAGVIT, MAGVITConfig
from varmini.zoo.generators.spacetime import SpaceTimePyramid
from varmini.zoo.tokenizers.causal_video import (
    CausalConv3d,
    CausalVideoConfig,
    CausalVideoTokenizer,
)

LABELS = torch.tensor([0, 1, 2, 3])
D = 4


@pytest.fixture(scope="module")
def garments():
    return MovingGarments("test")


@pytest.fixture(scope="module")
def tok():
    torch.manual_seed(0)
    config = CausalVideoConfig(width=4, hidden=8, bits=D, norm_groups=4)
    return redraw(CausalVideoTokenizer(config), 0, 0.1).eval()


def star(**options):
    values = dict(width=16, heads=2, depth=2, num_classes=5, bits=D)
    return redraw(InfinityStar(InfinityStarConfig(**values | options)), 0, 0.25).eval()


def magvit(**options):
    values = dict(width=16, heads=2, depth=2, num_classes=5, bits=D)
    model = redraw(MAGVIT(MAGVITConfig(**values | options)), 0, 0.25).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.reset_parameters()
    return model


def features(count=4, seed=1):
    return torch.randn(count, D, 7, 4, 4, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------------- data


def test_two_garments_fly_each_its_own_way():
    two, one = (MovingGarments("test", objects=n) for n in (2, 1))
    both, single = two.batch(6, seed=1, step=2), one.batch(12, seed=1, step=2)
    assert both.frames.shape == (6, 1, 13, 32, 32) and both.labels.shape == (6, 2)
    assert both.path.shape == (6, 2, 13, 2) and both.velocity.shape == (6, 2, 2)
    for i in range(2):  # each is one of those that fly alone
        assert both.path[:, i].equal(single.path[i::2])
        assert both.labels[:, i].equal(single.labels[i::2])
    assert both.frames.equal(torch.maximum(single.frames[::2], single.frames[1::2]))


def test_videos_are_a_function_of_seed_and_step_and_the_path_is_true(garments):
    batch, again = garments.batch(40, seed=1, step=2), garments.batch(40, seed=1, step=2)
    assert all(a.equal(b) for a, b in zip(batch, again))
    assert not batch.frames.equal(garments.batch(40, seed=1, step=3).frames)
    assert batch.frames.shape == (40, 1, 13, 32, 32) and batch.frames.abs().max() <= 1
    assert set(batch.labels.tolist()) <= set(range(len(CLASSES)))
    assert torch.allclose(centroid(batch.frames[:, 0]), batch.path, atol=0.01)


def test_garments_keep_their_velocity_and_bounce(garments):
    batch = garments.batch(200, seed=0)
    steps = batch.path.diff(dim=1)
    assert steps.abs().max() <= 3  # at most 2 pixels, rounded
    at_once = (steps[:, 0] - batch.velocity).abs() > 1.01  # bounced in the first step
    assert at_once.float().mean() < 0.1
    lit = (batch.frames[:, 0] > -1).flatten(2).any(2)
    assert lit.all()  # never out of the picture
    alone = garments.batch(200, seed=0).path[:, :, 0].diff(dim=1).sign()
    assert ((alone.amax(1) > 0) & (alone.amin(1) < 0)).any()  # some turn round
    speed = batch.velocity.norm(dim=1)
    assert speed.min() >= 0.75 and speed.max() <= 2


def test_a_video_holds_one_garment_at_its_place(garments):
    batch = garments.batch(3, seed=0)
    corner = (batch.path - centroid(garments.garments[:1])[0]).round().long()
    assert corner.min() >= -7 and corner.max() <= 32 - GARMENT + 7
    first = [frame[(frame > -1).any(1)][:, (frame > -1).any(0)] for frame in batch.frames[0, 0]]
    assert all(a.equal(first[0]) for a in first)  # the same pixels in every frame


@pytest.mark.parametrize("options", [{"side": 14}, {"frames": 0}, {"data": "cifar10-subset"}])
def test_the_door_of_the_data(options):
    with pytest.raises(ValueError, match="expected"):
        MovingGarments("test", **options)


# ---------------------------------------------------------------------------------------- tokenizer


def test_the_convolution_is_the_causal_3d_one():
    layer, x = CausalConv3d(3, 5, stride=2), torch.randn(2, 3, 7, 4, 4)
    weight = layer.conv.weight.unflatten(1, (3, 3)).transpose(1, 2)  # (5, 3, time, 3, 3)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1, 2, 0))
    expected = torch.nn.functional.conv3d(padded, weight, layer.conv.bias, stride=(2, 1, 1))
    assert torch.allclose(layer(x), expected, atol=1e-5) and expected.shape[2] == 4


def test_a_frame_does_not_depend_on_later_frames(tok, garments):
    videos = garments.batch(1, seed=0).frames.requires_grad_()
    z = tok.features(videos)
    for t in range(7):
        (seen,) = torch.autograd.grad(z[:, :, t].square().sum(), videos, retain_graph=True)
        touched = seen.abs().sum((0, 1, 3, 4)) > 0
        assert touched[: 2 * t + 1].any() and not touched[2 * t + 1 :].any(), t
    codes = torch.randn(1, D, 7, 4, 4, requires_grad=True)
    drawn = tok.decode_features(codes)
    for frame in range(13):
        (seen,) = torch.autograd.grad(drawn[:, :, frame].square().sum(), codes, retain_graph=True)
        touched = seen.abs().sum((0, 1, 3, 4)) > 0
        last = (frame + 1) // 2  # latent t holds frames 2t - 1 and 2t
        assert touched[last] and not touched[last + 1 :].any(), frame


def test_the_tokens_of_the_first_frames_are_those_of_a_shorter_video(tok, garments):
    videos = garments.batch(2, seed=0).frames
    whole = tok.encode(videos)
    for frames in (1, 5, 13):
        part = tok.encode(videos[:, :, :frames])
        assert all(a.equal(b[:, : (frames + 1) // 2]) for a, b in zip(part, whole))
        shown = tok.decode(part)
        assert shown.shape == (2, 1, frames, 32, 32)
        assert torch.allclose(shown, tok.decode(whole)[:, :, :frames], atol=1e-5)


def test_the_doors_of_the_tokenizer(tok):
    for shape in ((1, 1, 4, 32, 32), (1, 3, 5, 32, 32), (1, 32, 32), (1, 1, 5, 28, 28)):
        with pytest.raises(ValueError, match=r"expected \(B, 1, F, 32, 32\)"):
            tok.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="to_float"):
        tok.encode(torch.full((1, 1, 1, 32, 32), 255.0))
    with pytest.raises(ValueError, match=r"expected \(B, 1 \+ n, h, w\)"):
        tok.decode([torch.zeros(1, 1, 1, dtype=torch.long)])
    with pytest.raises(ValueError, match=r"tokens in \[0, 16\)"):
        tok.decode([torch.full((1, 1, n, n), 16) for n in (1, 2, 4)])
    with pytest.raises(ValueError, match="end at the side 4"):
        CausalVideoTokenizer(CausalVideoConfig(sizes=(1, 2)))


# ------------------------------------------------------------------------------------- InfinityStar


def test_who_sees_whom_by_gradients():
    model = star()
    pyramid, (_, inputs) = model.pyramid, model.teacher(features(1))
    inputs.requires_grad_()
    logits = model.network(LABELS[:1], inputs)
    for part in pyramid.drawn:
        (seen,) = torch.autograd.grad(logits[:, part.at].square().sum(), inputs, retain_graph=True)
        touched = seen.abs().sum((0, 2)) > 0
        for other in pyramid.parts[1:]:
            # Through the depth of the network, a clip that is read whole has seen those before it.
            whole = other.scale == 3 and other.clip < part.clip
            at = slice(other.at.start - 1, other.at.stop - 1)
            expected = other == part or (whole and part.clip - other.clip <= 2)
            assert touched[at].any() == expected and touched[at].all() == expected, (part, other)


def test_one_block_sees_itself_the_class_and_the_clip_before():
    pyramid = SpaceTimePyramid((1, 2), (1, 2, 2))
    names = ["class"] + [f"{p.clip}{'w' if p.scale == 2 else p.scale}" for p in pyramid.parts[1:]]
    assert names == ["class", "00", "01", "0w", "10", "11", "1w", "20", "21"]
    assert [p.at.stop - p.at.start for p in pyramid.parts] == [1, 1, 4, 4, 2, 8, 8, 2, 8]
    mask = pyramid.mask()
    sees = {a: {b for b, key in zip(names, pyramid.parts) if mask[query.at, key.at].all()}
            for a, query in zip(names, pyramid.parts)}  # fmt: skip
    assert sees["class"] == {"class"} and sees["00"] == {"class", "00"}
    assert sees["11"] == {"class", "0w", "11"} and sees["20"] == {"class", "1w", "20"}
    assert mask.sum() == sum(
        (query.at.stop - query.at.start) * (key.at.stop - key.at.start)
        for a, query in zip(names, pyramid.parts) for b, key in zip(names, pyramid.parts)
        if b in sees[a]
    )  # fmt: skip
    with pytest.raises(ValueError, match="lengths of at least 1"):
        SpaceTimePyramid((1, 2), (1, 0))


def test_a_class_token_a_clip_changes_nothing_and_its_windows_hold_all_that_is_seen():
    model = star()
    network, pyramid = model.network, model.pyramid
    order, windows, mask = pyramid.windows()
    assert order[order > 0].tolist() == list(range(1, pyramid.length))
    assert (order == 0).sum() == len(pyramid.clips) == len(windows)
    assert mask.sum(1).equal(pyramid.mask()[order].sum(1))  # everybody sees as many as before
    inputs = torch.randn(3, pyramid.length - 1, D)
    condition = network.condition(LABELS[:3])
    words = torch.cat([condition[0], network.word(inputs)], dim=1)
    expected = network.step(words, condition, slice(None), pyramid.mask())
    for ours in (network, quicken(star()).network):
        torch.testing.assert_close(ours(LABELS[:3], inputs), expected, rtol=1e-4, atol=1e-4)


def test_targets_are_the_tokenizers_own_tokens(tok, garments):
    videos = garments.batch(2, seed=0).frames
    maps, model = tok.encode(videos), star()
    tokens, inputs = model.teacher(tok.features(videos))
    expected = [maps[p.scale][:, model.pyramid.frames(p.clip)] for p in model.pyramid.drawn]
    assert tokens.equal(torch.cat([t.flatten(1) for t in expected], dim=1))
    firsts = [p.at for p in model.pyramid.parts[1:] if p.scale == 0]
    assert all(not inputs[:, at.start - 1 : at.stop - 1].any() for at in firsts)
    none = [torch.zeros_like(m) for m in maps]
    assert all(a.equal(b) for a, b in zip(model.teacher(tok.features(videos), none),
                                          (tokens, inputs)))  # fmt: skip
    assert model.train().loss(tok.features(videos), LABELS[:2]).isfinite()
    with pytest.raises(ValueError, match=r"expected features \(B, 4, 7, 4, 4\)"):
        model.loss(maps[2], LABELS[:2])


@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_with_a_cache_equals_without_and_the_quick_form_equals_the_plain(cfg):
    model = star()
    kept = model.draw(LABELS, seed=1, cfg=cfg)
    assert [tuple(m.shape) for m in kept] == [(4, 7, 1, 1), (4, 7, 2, 2), (4, 7, 4, 4)]
    assert flat(kept).equal(flat(model.draw(LABELS, seed=1, cfg=cfg, cached=False)))
    assert flat(kept).equal(flat(quicken(star()).draw(LABELS, seed=1, cfg=cfg)))


def test_given_clips_stay_and_the_random_numbers_do_not_move():
    model = star()
    drawn = model.draw(LABELS, seed=1)
    for frames in (1, 3, 5, 7):
        again = model.draw(LABELS, seed=1, known=[m[:, :frames] for m in drawn])
        assert flat(again).equal(flat(drawn))
    other = [m[:, :3] ^ 1 for m in drawn]
    changed = model.draw(LABELS, seed=1, known=other)
    assert all(a[:, :3].equal(b) for a, b in zip(changed, other))
    assert not flat(changed).equal(flat(drawn))
    with pytest.raises(ValueError, match=r"of 2 latent frames, expected 3 of \[1, 3, 5, 7\]"):
        model.draw(LABELS, known=[m[:, :2] for m in drawn])


# ------------------------------------------------------------------------------------------- MAGVIT


def test_two_parts_make_a_token():
    model = magvit()
    tokens = torch.arange(2**D)
    assert model.join(model.split(tokens)).equal(tokens) and model.split(tokens).max() == 3
    shared = (model.tables - model.rows)[:, :-1]  # by bits: with all of them turned, the opposite
    assert torch.allclose(shared, -shared.flip(1)) and shared.any()
    with pytest.raises(ValueError, match="a divisor of bits"):
        magvit(groups=3)
    with pytest.raises(ValueError, match="fewer known than 7"):
        magvit(tasks=(0, 7))


def test_known_tokens_are_never_masked():
    model = magvit()
    known = torch.tensor([0, 16, 48] * 200)
    hidden = model.hide(known)
    assert hidden.any(1).all()
    assert not hidden[torch.arange(112) < known[:, None]].any()
    share = hidden.sum(1) / (112 - known)
    assert share.mean().item() == pytest.approx(2 / torch.pi, abs=0.04)  # of cos(pi r / 2)


def test_given_frames_stay_and_all_others_are_drawn():
    model = magvit()
    drawn = model.draw(LABELS, seed=1, cfg=1.0)
    assert len(drawn) == 1 and drawn[0].shape == (4, 7, 4, 4)
    assert drawn[0].min() >= 0 and drawn[0].max() < 2**D
    assert drawn[0].equal(model.draw(LABELS, seed=1, cfg=1.0)[0])
    sharp = [model.draw(LABELS, seed=i, rounds=1, tau=1e-9)[0] for i in range(2)]
    assert sharp[0].equal(sharp[1])
    given = torch.randint(2**D, (4, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    for rounds in (1, 5):
        again = model.draw(LABELS, seed=1, known=[given], rounds=rounds)[0]
        assert again[:, :3].equal(given) and again[:, 3:].max() < 2**D
    for wrong in (dict(rounds=0), dict(known=[torch.zeros(4, 7, 4, 4).long()])):
        with pytest.raises(ValueError, match="expected at most one map of fewer than 7"):
            model.draw(LABELS, **wrong)


def test_a_masked_token_sees_all_others_whatever_their_frame():
    model = magvit()
    parts = model.split(torch.randint(2**D, (1, 112)))
    parts[:, 50] = 4  # [MASK]
    before = model(LABELS[:1], parts)[0, 50]
    for other in (0, 111):
        changed = parts.clone()
        changed[:, other] = 3 - changed[:, other]
        assert not torch.allclose(model(LABELS[:1], changed)[0, 50], before)


def test_only_masked_tokens_count_in_the_loss_each_as_much():
    model = magvit().train()
    parts, hidden = model.split(torch.randint(2**D, (4, 112))), torch.rand(4, 112) < 0.3
    logits = model(LABELS, parts.masked_fill(hidden[..., None], 4))[hidden]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), parts[hidden].flatten(), reduction="sum"
    )
    assert torch.allclose(model.surprise(LABELS, parts, hidden).sum(), expected, rtol=1e-4)


def test_it_learns_from_the_tokenizers_grid(garments):
    grid = CausalVideoTokenizer(CausalVideoConfig(sizes=(4,), bits=D, width=4, hidden=8)).eval()
    tokens = grid.encode(garments.batch(4, seed=0).frames)
    model = magvit().train()
    assert model.loss(tokens[0], LABELS).isfinite()
    assert grid.decode(model.eval().draw(LABELS)).shape == (4, 1, 13, 32, 32)
