"""Number for number the official code: every stage against the golden case, in its tolerances."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden_case import SIZES, gold, models, official_vae, official_var

from varmini import ScaleSchedule, sample
from varmini.data import to_float
from varmini.fast import drawing
from varmini.model.quantizer import MultiScaleQuantizer
from varmini.model.sampler import filter_logits
from varmini.official import load_official, var_views

FEATURES, IMAGES, LOGITS, GRADIENTS, PROBABILITIES = 2e-5, 5e-5, 3e-5, 1e-4, 1e-6


def pyramid(name: str, sizes=SIZES) -> list[torch.Tensor]:
    return [gold()[f"{name}.{k}"].unflatten(1, (n, n)) for k, n in enumerate(sizes)]


def assert_same_tokens(tokens: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(tokens) == len(expected)
    for k, (ours, theirs) in enumerate(zip(tokens, expected)):
        assert torch.equal(ours, theirs), f"scale {k}"


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= tolerance


def assert_gradients(ours: dict[str, torch.Tensor], prefix: str) -> None:
    """Every gradient that the golden case holds under `prefix`, by its relative norm."""
    theirs = {k.removeprefix(prefix): v for k, v in gold().items() if k.startswith(prefix)}
    assert theirs.keys() == ours.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        assert (ours[name] - expected).norm() <= GRADIENTS * expected.norm(), name


def test_the_input_convention_is_ours() -> None:
    assert_close(to_float(gold()["img_u8"].to(torch.uint8)), gold()["img"], 1e-6)


# ------------------------------------------------------------------------------------ the tokenizer

def test_features() -> None:
    tok, _ = models()
    with torch.no_grad():
        assert_close(tok.encoder(gold()["img"]), gold()["enc_out"], FEATURES)
        assert_close(tok.features(gold()["img"]), gold()["f"], FEATURES)


def test_tokens_of_every_scale() -> None:
    tok, _ = models()
    assert_same_tokens(tok.encode(gold()["img"]), pyramid("idx"))


@torch.no_grad()
def test_f_hat_and_image_after_every_scale() -> None:
    tok, _ = models()
    tokens = pyramid("idx")
    for k, f_hat in enumerate(tok.quantizer.cumulative(tokens)):
        assert_close(f_hat, gold()[f"f_hat.{k}"], FEATURES)
        assert_close(tok.quantizer.decode(tokens[:k + 1]), gold()[f"f_hat.{k}"], FEATURES)
        assert_close(tok.decode(tokens, num_scales=k + 1), gold()[f"recon.{k}"], IMAGES)


def test_teacher_inputs() -> None:
    tok, _ = models()
    assert_close(tok.quantizer.teacher_inputs(pyramid("idx")), gold()["var_input"], FEATURES)


def test_training_loss_of_the_quantizer_and_its_gradients() -> None:
    quantizer = models()[0].quantizer
    f = gold()["f"].clone().requires_grad_()
    out = quantizer(f)
    assert_close(out.f_hat, gold()["vq.f_hat_st"], FEATURES)
    assert_close(out.loss[None], gold()["vq.loss"], FEATURES)
    names = {"codebook.weight": "quantize.embedding.weight"} | {
        f"phis.{i}.{part}": f"quantize.quant_resi.qresi_ls.{i}.{part}"
        for i in range(4) for part in ("weight", "bias")}
    own = dict(quantizer.named_parameters())
    assert own.keys() == names.keys()
    total = out.loss + (out.f_hat * gold()["vq.probe_w"]).mean()
    for_f, *rest = torch.autograd.grad(total, [f, *own.values()])
    expected = gold()["vq.grad_f"]
    assert (for_f - expected).norm() <= GRADIENTS * expected.norm()
    assert_gradients({names[k]: g for k, g in zip(own, rest)}, "vq.grad.")


def test_cosine_lookup() -> None:
    tok, _ = load_official(official_vae(), None, SIZES, lookup="cosine")
    assert_same_tokens(tok.encode(gold()["img"]), pyramid("znorm.idx"))


def test_another_schedule_takes_other_phis() -> None:
    tok, _ = load_official(official_vae(), None, sizes=(1, 4))
    assert_same_tokens(tok.encode(gold()["img"]), pyramid("pn14.idx", (1, 4)))


@pytest.mark.parametrize(("phis", "scales", "expected"), [
    (4, 10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]),
    (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),
    (4, 6, [0, 0, 1, 2, 3, 3]),
    (4, 4, [0, 1, 2, 3]),
    (4, 2, [0, 3]),
    (1, 10, [0] * 10),
    (10, 10, list(range(10))),
    (14, 14, list(range(14))),
    # Ties, which the rounding of numpy's linspace decides in the official code.
    (6, 3, [0, 2, 5]),
    (5, 6, [0, 0, 1, 2, 3, 4]),
    (3, 10, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]),
    (4, 1, [0]),
])
def test_phi_of_every_scale(phis: int, scales: int, expected: list[int]) -> None:
    schedule = ScaleSchedule(range(1, scales + 1))
    quantizer = MultiScaleQuantizer(schedule, 4, 2, num_phi=phis)
    assert [quantizer.phi_index(k) for k in range(scales)] == expected


# ---------------------------------------------------------------------------------- the transformer

@torch.no_grad()
def test_logits() -> None:
    _, var = models()
    inputs = gold()["var_input"]
    assert_close(var(gold()["labels"], inputs), gold()["logits"], LOGITS)
    null = torch.tensor([var.config.num_classes])
    assert_close(var(null, inputs[:1]), gold()["logits_uncond"], LOGITS)


def test_cross_entropy_and_all_gradients() -> None:
    _, var = models()
    targets = torch.cat([t.flatten(1) for t in pyramid("idx")], dim=1)
    loss = F.cross_entropy(var(gold()["labels"], gold()["var_input"]).flatten(0, 1),
                           targets.flatten())
    assert_close(loss[None], gold()["ce_loss"], LOGITS)
    own = dict(var.named_parameters())
    gradients = torch.autograd.grad(loss, list(own.values()))
    assert_gradients(var_views(dict(zip(own, gradients)), var.config), "grad.")


@torch.no_grad()
def test_without_qk_normalisation() -> None:
    state = {k: v for k, v in official_var().items() if not k.endswith("scale_mul_1H11")}
    _, var = load_official(None, state, SIZES, heads=2)
    assert_close(var(gold()["labels"], gold()["var_input"]), gold()["nol2.logits"], LOGITS)


# -------------------------------------------------------------------------------------- the sampler

@pytest.fixture
def seen_logits(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The guided logits that `sample` draws from, scale by scale."""
    seen: list[torch.Tensor] = []

    def filter_and_note(logits: torch.Tensor, *args) -> torch.Tensor:
        seen.append(logits.clone())
        return filter_logits(logits, *args)

    monkeypatch.setattr(drawing, "filter_logits", filter_and_note)
    return seen


@pytest.mark.parametrize(("name", "cfg"), [("ar15", 1.5), ("ar40", 4.0)])
def test_guided_greedy_samples(name: str, cfg: float, seen_logits: list[torch.Tensor]) -> None:
    tok, var = models()
    images, tokens = sample(var, tok, gold()["ar.labels"], cfg=cfg, top_k=1, return_tokens=True)
    assert_same_tokens(tokens, pyramid(f"{name}.idx"))
    assert len(seen_logits) == len(SIZES)
    for k, logits in enumerate(seen_logits):
        t = cfg * k / (len(SIZES) - 1)
        assert_close(logits, gold()[f"{name}.logits.{k}"], LOGITS * (1 + t))
    with torch.no_grad():
        assert_close(tok.quantizer.decode(tokens), gold()[f"{name}.f_hat"], FEATURES)
    assert_close((images + 1) / 2, gold()[f"{name}.img"], IMAGES)


def test_guided_greedy_samples_without_qk_normalisation(seen_logits: list[torch.Tensor]) -> None:
    state = {k: v for k, v in official_var().items() if not k.endswith("scale_mul_1H11")}
    tok, var = load_official(official_vae(), state, SIZES, heads=2)
    _, tokens = sample(var, tok, gold()["ar.labels"], cfg=1.5, top_k=1, return_tokens=True)
    assert torch.equal(tok.schedule.flatten(tokens), gold()["nol2.ar15.idx"])
    assert_close(torch.cat(seen_logits, dim=1), gold()["nol2.ar15.logits"], LOGITS * 2.5)


@pytest.mark.parametrize(("logits", "top_k", "top_p", "expected"), [
    ("filter.logits_V64", 0, 0.0, "filter.V64_k0_p0"),
    ("filter.logits_V64", 5, 0.0, "filter.V64_k5_p0"),
    ("filter.logits_V64", 0, 0.9, "filter.V64_k0_p0.9"),
    ("filter.logits_V64", 1, 0.0, "filter.V64_k1_p0"),
    ("filter.logits_V1024", 900, 0.96, "filter.V1024_k900_p0.96"),
    ("filter_ties.logits", 5, 0.0, "filter_ties.k5"),
])
def test_probabilities_after_top_k_and_top_p(logits: str, top_k: int, top_p: float,
                                             expected: str) -> None:
    ours = filter_logits(gold()[logits], top_k, top_p).softmax(-1)
    assert torch.equal(ours == 0, gold()[expected] == 0)
    assert_close(ours, gold()[expected], PROBABILITIES)
