"""Text to picture: grammar, scenes, cross-attention, and both generators that read captions."""

import pytest
import torch
from small_generators import flat
from tiny import redraw

from varmini import ScaleSchedule, quicken
from varmini.experiments import words
from varmini.zoo.generators import generator, infinity
from varmini.zoo.generators.parti import Parti, PartiConfig
from varmini.zoo.generators.text_infinity import TextInfinity, TextInfinityConfig
from varmini.zoo.text import grammar
from varmini.zoo.text.grammar import EMPTY, LENGTH, NAMES, WORDS, captions, encode, parse
from varmini.zoo.text.pretraining import every_caption, pretrain
from varmini.zoo.text.reading import CrossAttention, TextEncoder, words_of
from varmini.zoo.text.scenes import HELD_OUT, PAIRS, SEEN, halves, scenes, side_by_side

NET = dict(width=16, heads=2, depth=2, text_depth=1)
SMALL = {
    "parti": (Parti, PartiConfig(**NET, grid=(2, 4), vocab_size=6)),
    "text-infinity": (TextInfinity, TextInfinityConfig(**NET, sizes=((1, 2), (2, 4)), bits=2,
                                                       flips=0.3)),
}  # fmt: skip
TEXTS = ["a coat left of a bag", "two boots", "", "a bag right of a coat"]
each = pytest.mark.parametrize("name", SMALL)


def make(name, **options):
    torch.manual_seed(0)
    cls, config = SMALL[name]
    model = redraw(cls(config), 0, 0.25).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.reset_parameters()
    return model


def batch_of(name, count=4):
    generator = torch.Generator().manual_seed(1)
    if name == "parti":
        return torch.randint(6, (count, 2, 4), generator=generator)
    return torch.randn(count, 2, 2, 4, generator=generator)


# ----------------------------------------------------------------------------- grammar and scenes


def test_every_caption_tells_its_scene_and_no_other():
    told = [(caption, pair) for pair in PAIRS for caption in captions(*pair)]
    assert len({caption for caption, _ in told}) == len(told) == 90 * 4 + 10 * 6
    for caption, pair in told:
        assert parse(caption) == pair == parse(f"  {caption.upper()} ")
        assert grammar.decode(encode([caption])) == [caption]
    assert {word for caption, _ in told for word in caption.split()} == set(WORDS[1:])
    assert parse("a sandal left of a bag") == parse("a bag right of a sandal") == (5, 8)
    assert parse("two coats") == (4, 4) and "two dresses" in captions(3, 3)


def test_captions_end_once_and_the_empty_one_is_nothing_but_the_end():
    numbers = encode(["", TEXTS[0]])
    assert numbers.shape == (2, LENGTH) and (numbers[0] == EMPTY).all()
    assert words_of(numbers).sum(1).tolist() == [1, 7]
    longest = max(captions(0, 1), key=lambda text: len(text.split()))
    assert words_of(encode([longest])).all() and encode([longest])[0, -1] == EMPTY


@pytest.mark.parametrize("text, message", [
    ("a hat left of a bag", "unknown word 'hat' .* expected words of: a, two, .*, bag, boot, "),
    ("a <end> bag", "unknown word '<end>'"),
    ("a coat " * 6, "has 12 words, expected at most 10"),
])  # fmt: skip
def test_captions_with_unknown_words_are_told_apart(text, message):
    with pytest.raises(ValueError, match=message):
        encode([text])
    with pytest.raises(ValueError, match=message):
        make("parti").draw([TEXTS[0], text])


def test_words_in_another_order_are_no_sentence():
    with pytest.raises(ValueError, match="no sentence .* like: a coat left of a bag; .*two coats"):
        parse("left a coat of a bag")
    assert encode(["left a coat of a bag"]).shape == (1, LENGTH)  # a network may be given it


@pytest.mark.parametrize("wrong, message", [
    (torch.zeros(2, 3), r"captions are torch.float32 of shape \(2, 3\), expected texts or"),
    (torch.full((1, LENGTH), len(WORDS)), "word number 29 is unknown, expected 0 to 28"),
])  # fmt: skip
def test_numbers_of_words_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        make("text-infinity").draw(wrong)


def test_held_out_pairs_never_occur_in_training_and_all_else_does():
    assert len(HELD_OUT) == 20 and set(HELD_OUT) == {(right, left) for left, right in HELD_OUT}
    for side in range(2):  # every class is held out, and is seen, on each side as often
        assert torch.tensor(HELD_OUT)[:, side].bincount().tolist() == [2] * 10
        assert torch.tensor(SEEN)[:, side].bincount().tolist() == [8] * 10
    labels, found = torch.arange(40) % 10, set()
    stream = scenes(labels, 500, seed=3)
    for rows, texts in (next(stream) for _ in range(5)):
        pairs = [tuple(pair) for pair in labels[rows].tolist()]
        assert pairs == [parse(text) for text in grammar.decode(texts)]
        found |= set(pairs)
    assert found == set(SEEN)
    rows, _ = next(scenes(labels, 500, seed=3, pairs=HELD_OUT))
    assert {tuple(pair) for pair in labels[rows].tolist()} == set(HELD_OUT)


def test_scenes_are_a_function_of_seed_and_step():
    labels = torch.arange(40) % 10
    stream = scenes(labels, 8, seed=1)
    first, second = next(stream), next(stream)
    again = next(scenes(labels, 8, seed=1, start_step=1))
    assert all(a.equal(b) for a, b in zip(second, again))
    assert not first[0].equal(second[0])
    assert not next(scenes(labels, 8, seed=2))[0].equal(first[0])


def test_scenes_are_two_images_side_by_side():
    images = torch.randn(5, 1, 2, 2)
    rows = torch.tensor([[0, 3], [4, 4]])
    pictures = side_by_side(images, rows)
    assert pictures.shape == (2, 1, 2, 4) and pictures[0, :, :, 2:].equal(images[3])
    assert halves(pictures).equal(images[rows.T.flatten()])


# --------------------------------------------------------------------------------------- attention


def test_cross_attention_is_its_equation_and_padding_is_not_seen():
    torch.manual_seed(0)
    cross, x, t = CrossAttention(8, 2).eval(), torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    seen = torch.tensor([[True, True, False, False], [True] * 4])
    got = cross(x, cross.read(t, seen))
    for b, n in enumerate((2, 4)):
        q = cross.q(cross.norm(x[b])).view(3, 2, 4)
        k, v = cross.kv(t[b, :n]).view(n, 2, 2, 4).unbind(1)
        mixed = [(q[:, h] @ k[:, h].T / 2).softmax(1) @ v[:, h] for h in range(2)]
        expected = x[b] + cross.proj(torch.cat(mixed, dim=1))
        assert torch.allclose(got[b], expected, atol=1e-6)


def test_what_fills_up_a_caption_changes_no_state():
    torch.manual_seed(0)
    encoder = TextEncoder(16, 2, 1).eval()
    numbers = encode([TEXTS[1]])
    with torch.no_grad():
        before = encoder(numbers)[0, :3]
        encoder.position[3:] += 1.0  # only what fills up stands there
        assert torch.allclose(encoder(numbers)[0, :3], before, atol=1e-6)


def test_pretraining_reads_pairs_that_it_never_saw_and_freezes_the_encoder():
    torch.manual_seed(0)
    text = TextEncoder(128, 4, 2)  # as the generators have it; a smaller one may not get there
    model = pretrain(text, 4)
    numbers, wanted = every_caption(HELD_OUT)
    with torch.no_grad():
        assert (model(numbers).argmax(2) == wanted).float().mean() > 0.95
    assert not any(p.requires_grad for p in text.parameters())


# --------------------------------------------------------------------------------------- generators


@each
def test_the_protocol(name, tmp_path):
    model = make(name)
    drawn = model.draw(TEXTS, seed=1)
    if name == "parti":
        assert drawn.shape == (4, 2, 4) and model.steps() == 8
    else:
        assert [tuple(m.shape) for m in drawn] == [(4, 1, 2), (4, 2, 4)] and model.steps() == 2
    assert model.loss(batch_of(name), encode(TEXTS)).isfinite()
    again = type(model).from_pretrained(model.save_pretrained(tmp_path))
    assert flat(again.draw(encode(TEXTS), seed=1)).equal(flat(drawn))
    assert not flat(model.draw(TEXTS, seed=2)).equal(flat(drawn))


@each
def test_word_order_changes_what_is_drawn(name):
    model = make(name)
    swapped = ["a bag left of a coat", *TEXTS[1:]]
    one, other = flat(model.draw(TEXTS, seed=1)), flat(model.draw(swapped, seed=1))
    assert not one[0].equal(other[0]) and one[1:].equal(other[1:])


@each
@pytest.mark.parametrize("cfg", [0.0, 1.5])
def test_with_a_cache_equals_without_and_teacher_forcing(name, cfg, monkeypatch):
    model, seen = make(name), []
    module = generator if name == "parti" else infinity
    keep = module.filter_logits
    monkeypatch.setattr(module, "filter_logits", lambda *a: seen.append(a[0]) or keep(*a))
    drawn = [model.draw(TEXTS, seed=1, cfg=cfg, cached=cached) for cached in (True, False)]
    drawn.append(quicken(model).draw(TEXTS, seed=1, cfg=cfg))
    assert flat(drawn[0]).equal(flat(drawn[1])) and flat(drawn[0]).equal(flat(drawn[2]))
    steps = model.steps()
    for a, b, c in zip(seen[:steps], seen[steps:], seen[2 * steps :]):
        assert torch.allclose(a, b, atol=1e-4) and torch.allclose(a, c, atol=1e-4)
    # What was drawn has the likelihood that the training path gives it; u reads the empty caption.
    c, u = (teacher_forced(name, model, captions, drawn[0])
            for captions in (encode(TEXTS), encode([""] * 4)))  # fmt: skip
    expected = u + (1 + cfg) * (c - u)
    got = torch.cat([a.reshape(4, -1) for a in seen[:steps]], dim=1)
    assert torch.allclose(got, expected.reshape(4, -1), atol=1e-3)


def teacher_forced(name, model, captions, drawn):
    if name == "parti":
        return model(captions, drawn.flatten(1)[:, :-1])
    sums = model.quantizer.cumulative(drawn)
    inputs = [model.next_input(f_hat, k) for k, f_hat in enumerate(sums[:-1], 1)]
    return model.network(captions, torch.cat(inputs, dim=1))


@each
def test_a_tenth_of_the_captions_is_empty_in_training(name):
    model, given = make(name), encode(TEXTS[:1] * 4000)
    assert model.eval().shown(given).equal(given) and model.null == EMPTY
    shown = model.train().shown(given)
    empty = (shown == EMPTY).all(1)
    assert empty.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert shown[~empty].equal(given[~empty])
    torch.manual_seed(0)
    model.loss(batch_of(name), given[:4]).backward()
    unused = {key for key, p in model.named_parameters() if p.grad is None}
    assert not unused


def test_scales_that_are_not_square_see_coarser_ones_alone():
    torch.manual_seed(0)
    model = TextInfinity(TextInfinityConfig(**NET, bits=2))
    assert model.schedule == ScaleSchedule(((1, 2), (2, 4), (3, 6), (4, 8)))
    model = redraw(model, 0, 0.25).eval()
    features = torch.randn(2, 2, 4, 8)
    inputs = model.teacher(features)[1].requires_grad_()
    for k, part in enumerate(model.schedule.slices):
        logits = model.network(encode(TEXTS[:2]), inputs)[:, part]
        (seen,) = torch.autograd.grad(logits.square().sum(), inputs)
        touched = seen.abs().sum((0, 2)) > 0
        assert touched[: part.stop - 2].all() and not touched[part.stop - 2 :].any(), k


def test_tokens_of_a_scene_are_nearly_those_of_its_halves():
    torch.manual_seed(0)
    model, single = (TextInfinity(TextInfinityConfig(**NET, bits=2, sizes=sizes)) for sizes in
                     (((1, 2), (2, 4)), (1, 2)))  # fmt: skip
    features = torch.randn(50, 2, 2, 4)
    tokens = model.schedule.unflatten(model.teacher(features)[0])
    own = single.schedule.unflatten(single.teacher(halves(features))[0])
    assert halves(tokens[0]).equal(own[0])  # a half's average knows nothing of the other
    assert (halves(tokens[1]) == own[1]).float().mean() > 0.6  # finer ones meet at the seam


# ------------------------------------------------------------------------------------- measurement


def test_garments_are_counted_by_half():
    wanted = torch.tensor([[0, 1], [2, 2], [3, 4], [5, 6]])
    seen = torch.tensor([[0, 1], [2, 2], [4, 3], [5, 0]])

    def evaluator(images):
        assert images.shape == (8, 1, 32, 32)
        return None, torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 10).float()

    pictures = torch.zeros(4, 1, 32, 64)
    pictures[..., :32], pictures[..., 32:] = (seen[:, i, None, None, None] for i in range(2))
    row = words.count_right(evaluator, pictures, wanted)
    assert [row[k] for k in ("n", "left", "right", "both", "swapped")] == [4, 0.75, 0.5, 0.5, 0.25]
    assert row["both_low"] < 0.5 < row["both_high"]


def test_every_pair_is_asked_for_in_all_its_forms():
    found = words.asked(HELD_OUT, 8)
    assert len(found) == 160 and len({text for text, *_ in found}) == 80
    assert all(parse(text) == (left, right) for text, left, right in found)
    assert {NAMES[left] for _, left, _ in found} == set(NAMES)
