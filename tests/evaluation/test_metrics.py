"""Metrics against closed forms and brute force."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import make_tokenizer

from varmini import MultiScaleVQVAE
from varmini.data import ImageSet, to_float
from varmini.evaluation import metrics
from varmini.evaluation.evaluators import Evaluator, classifier_evaluator
from varmini.evaluation.fid import evaluate_tokenizer
from varmini.training.classifier import Classifier, ClassifierConfig


def gaussian(n: int, mean: torch.Tensor, cov: torch.Tensor, seed: int) -> torch.Tensor:
    """n samples whose sample mean and sample covariance are exactly mean and cov."""
    d = len(mean)
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    values, vectors = torch.linalg.eigh(cov)
    return x @ (vectors * values.clamp(min=0).sqrt()).T + mean


def test_psnr_is_ten_log_of_four_over_mse():
    a = torch.zeros(3, 1, 4, 4)
    b = torch.stack([torch.full((1, 4, 4), v) for v in (0.0, 0.2, 1.0)])
    got = metrics.psnr(a, b)
    assert got[0] == math.inf
    assert got[1].item() == pytest.approx(20.0, abs=1e-4)
    assert got[2].item() == pytest.approx(10 * math.log10(4), abs=1e-4)


def test_psnr_clamps_as_saving_does_and_refuses_bytes_and_shapes():
    white = torch.ones(1, 3, 2, 2)
    assert metrics.psnr(white * 1.3, white)[0] == math.inf
    wrong = (((white * 255).byte(), "to_float"), (white * 255, "to_float"), (white[0], "shapes"))
    for images, words in wrong:
        with pytest.raises(ValueError, match=words):
            metrics.psnr(images, white)


def test_every_metric_takes_numpy_arrays_and_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 4, 3, 5, 5, generator=generator) * 2 - 1
    features = torch.randn(2, 20, 4, generator=generator)
    tokens = [torch.arange(2).view(2, 1, 1), torch.arange(8).view(2, 2, 2)]
    probs, moments = features[0].softmax(1), metrics.Moments()
    assert torch.equal(metrics.psnr(*images.numpy()), metrics.psnr(*images))
    for one in ([t.numpy() for t in tokens], [[t.numpy().astype("uint8") for t in tokens]]):
        assert metrics.codebook_usage(one, 8) == metrics.codebook_usage(tokens, 8)
    for metric in (metrics.frechet_distance, metrics.precision_recall):
        assert metric(*features.numpy()) == metric(*features)
    assert metrics.inception_score(probs.numpy()) == metrics.inception_score(probs)
    moments.add(features[0].numpy())
    torch.testing.assert_close(moments.mean(), features[0].double().mean(0))


def test_usage_counts_what_each_scale_could_show():
    # Two images: the 1x1 scale shows two tokens, so at most two of the eight codes.
    tokens = [torch.tensor([[[3]], [[3]]]), torch.tensor([[[0, 1], [2, 3]], [[4, 5], [6, 7]]])]
    usage = metrics.codebook_usage(tokens, 8)
    first, second = usage["scales"]
    assert (first["used"], first["allowed"], first["share"]) == (1, 2, 0.5)
    assert first["perplexity"] == pytest.approx(1.0)
    assert (second["used"], second["allowed"], second["share"]) == (8, 8, 1.0)
    assert second["perplexity"] == pytest.approx(8.0)
    assert usage["overall"]["used"] == 8 and usage["overall"]["allowed"] == 8


@pytest.mark.parametrize("tokens", [[torch.tensor([[[8]]])], [torch.tensor([[[-1]]])], [], [[]]])
def test_usage_refuses_nothing_and_strangers(tokens):
    with pytest.raises(ValueError):
        metrics.codebook_usage(tokens, 8)


def test_frechet_against_the_matrix_root_of_the_plain_product():
    # tr (S_a S_b)^1/2 is the sum of the roots of the (non-symmetric) product's eigenvalues.
    generator = torch.Generator().manual_seed(5)
    mix_a, mix_b = torch.randn(2, 5, 5, generator=generator, dtype=torch.float64)
    mean_a, mean_b = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    cov_a, cov_b = mix_a @ mix_a.T, mix_b @ mix_b.T
    a, b = gaussian(30, mean_a, cov_a, 0), gaussian(40, mean_b, cov_b, 1)
    cross = torch.linalg.eigvals(cov_a @ cov_b).real.sqrt().sum()
    means = (mean_a - mean_b).square().sum()
    expected = (means + cov_a.trace() + cov_b.trace() - 2 * cross).item()
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert metrics.frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_with_singular_covariances():
    x = torch.zeros(20, 6)
    x[:, 0] = torch.linspace(-1, 1, 20)
    assert metrics.frechet_distance(x, x) == pytest.approx(0.0, abs=1e-12)
    assert metrics.frechet_distance(x, x + 2) == pytest.approx(24.0, rel=1e-6)
    constant = torch.ones(20, 6)
    assert metrics.frechet_distance(constant, constant * 3) == pytest.approx(24.0, rel=1e-9)


def test_frechet_says_how_many_samples_it_needs():
    few, many = torch.randn(10, 64), torch.randn(80, 64)
    for pair, words in (
        ((few, many), "features_a holds 10 samples.*at least 64"),
        ((many, few), "features_b holds 10 samples.*at least 64"),
        ((many, many * math.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            metrics.frechet_distance(*pair)


def brute_covered(points: list, centres: list, k: int) -> float:
    radii = []
    for i, c in enumerate(centres):
        others = sorted(math.dist(c, o) for j, o in enumerate(centres) if j != i)
        radii.append(others[k - 1])
    hits = [any(math.dist(p, c) <= r for c, r in zip(centres, radii, strict=True)) for p in points]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("chunk", [7, 512])
def test_precision_and_recall_against_brute_force(k, chunk):
    generator = torch.Generator().manual_seed(k)
    real = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    fake = torch.randn(33, 3, generator=generator, dtype=torch.float64) * 0.7 + 1.0
    precision, recall = metrics.precision_recall(real, fake, k=k, chunk=chunk)
    assert precision == brute_covered(fake.tolist(), real.tolist(), k)
    assert recall == brute_covered(real.tolist(), fake.tolist(), k)
    assert precision != recall


def test_precision_and_recall_at_the_ends():
    real = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    assert metrics.precision_recall(real, real.clone()) == (1.0, 1.0)
    assert metrics.precision_recall(real, real + 1000) == (0.0, 0.0)
    # One real picture repeated: perfectly precise, and it covers that picture alone.
    assert metrics.precision_recall(real, real[:1].repeat(10, 1)) == (1.0, 1 / 30)
    with pytest.raises(ValueError, match="more than k = 3"):
        metrics.precision_recall(real, real[:3])


def test_inception_score_at_the_ends():
    assert metrics.inception_score(torch.eye(10)) == pytest.approx(10.0)
    assert metrics.inception_score(torch.full((7, 10), 0.1)) == pytest.approx(1.0)
    assert metrics.inception_score(torch.eye(10)[:1].repeat(5, 1)) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="softmax"):
        metrics.inception_score(torch.randn(5, 10))
    probs = torch.cat([torch.eye(10), torch.full((10, 10), 0.1)])  # in parts: their mean
    assert metrics.inception_score(probs, part=10) == pytest.approx((10 + 1) / 2)
    assert metrics.inception_score(probs, part=20) == metrics.inception_score(probs)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[MultiScaleVQVAE, Evaluator]:
    tok = make_tokenizer(sizes=(1, 2), image_channels=3, vocab_size=8, multipliers=(1,), patch=8)
    network = ClassifierConfig(num_classes=3, widths=(4, 6))
    folder = Classifier(network).save_pretrained(tmp_path_factory.mktemp("classifier"))
    return tok, classifier_evaluator(str(folder))


@pytest.fixture(scope="module")
def dataset() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (11, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(11) % 3, ("a", "b", "c"), "noise")


def test_evaluate_tokenizer_measures_its_reconstructions(models, dataset):
    tok, evaluator = models
    result = evaluate_tokenizer(tok, dataset, evaluator, batch_size=4)
    images = to_float(dataset.images)
    tokens = tok.encode(images)
    drawn = tok.decode(tokens)
    assert result["n"] == 11
    assert result["psnr"] == pytest.approx(metrics.psnr(drawn, images).mean().item(), abs=1e-3)
    error = (drawn - images).double().square().mean().item()
    assert result["mse"] == pytest.approx(error, rel=1e-4)
    assert result["psnr_of_mean_mse"] == pytest.approx(10 * math.log10(4 / error), rel=1e-4)
    assert result["psnr_of_mean_mse"] < result["psnr"]
    assert result["usage"] == metrics.codebook_usage(tokens, 8)
    real, fake = evaluator.all_of([images]), evaluator.all_of([drawn[:5], drawn[5:]])
    right = (fake[1].argmax(1) == dataset.labels).double().mean().item()
    assert result["accuracy_reconstruction"] == pytest.approx(right)
    expected = metrics.frechet_distance(real[0], fake[0])
    assert result["frechet_own_classifier"] == pytest.approx(expected, rel=1e-3, abs=1e-9)
    assert not {"frechet", "accuracy_real"} & set(evaluate_tokenizer(tok, dataset))
    strangers = replace(evaluator, classes=0)
    assert "accuracy_real" not in evaluate_tokenizer(tok, dataset, strangers)


def test_an_evaluator_sees_what_saving_would_keep(models, dataset):
    evaluator, images = models[1], to_float(dataset.images)
    features, probs = evaluator(dataset.images)
    assert features.shape == (11, 6) and probs.sum(1).tolist() == pytest.approx([1] * 11)
    assert torch.equal(evaluator(images + 0.001)[0], features)
    torch.testing.assert_close(evaluator.all_of(images.split(4))[0], features)


@pytest.mark.parametrize("sizes", [(40,), (1, 38, 0, 1), (7, 7, 26)])
def test_moments_of_parts_are_the_moments_of_the_whole(sizes):
    generator = torch.Generator().manual_seed(0)
    # Means far from zero would eat the digits of a plain sum of squares.
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64) + torch.tensor([0, 1e4, -1e6])
    moments = metrics.Moments()
    for part in x.split(sizes):
        moments.add(part)
    assert moments.count == 40
    torch.testing.assert_close(moments.mean(), x.mean(0), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(moments.covariance(), torch.cov(x.T), rtol=1e-7, atol=1e-7)
    with pytest.raises(ValueError, match="NaN"):
        moments.add(x * math.nan)
