"""Both training loops in a tiny setting: stopped and resumed runs are bit-equal to whole ones."""

import functools
import itertools
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tokenizer
from toy_world import Killed

from varmini import VAR, MultiScaleVQVAE, VARConfig
from varmini.data import ImageSet
from varmini.runtime.machine import precision
from varmini.runtime.tables import read_rows
from varmini.training import classifier, train_tokenizer, train_var
from varmini.training.classifier import Classifier
from varmini.training.codebook import CodeRevival
from varmini.training.configs import (
    ClassifierConfig,
    ClassifierTraining,
    TokenizerTraining,
    VARTraining,
)
from varmini.training.token_sets import TokenSet, token_set

STEPS = 13  # 23 training images in batches of 4: more than two epochs
COMMON = dict(
    data="toy", images=STEPS * 4, batch_size=4, log_every=3, checkpoint_every=4, held_out=5, ema=0.9
)
SHAPE = make_tokenizer(sizes=(1, 2), vocab_size=24).config


def image_set(split):
    count = 23 if split == "train" else 6
    generator = torch.Generator().manual_seed(count)
    coarse = torch.randint(256, (count, 1, 2, 2), generator=generator, dtype=torch.uint8)
    images = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return ImageSet(images, torch.arange(count) % 3, ("a", "b", "c"), "toy")


@pytest.fixture(autouse=True, params=["float32"])
def tiny_world(request, monkeypatch):
    """Synthetic images under the name "toy", in a fixed precision."""

    def load_images(name, split, *options):
        if name != "toy":
            raise ValueError(f"{name}: no such set")
        return image_set(split)

    monkeypatch.setenv("VARMINI_PRECISION", request.param)
    precision.cache_clear()
    for module in (train_tokenizer, train_var):
        monkeypatch.setattr(module, "fitted", load_images)
    yield
    precision.cache_clear()


@pytest.fixture
def tokenizer_config(tmp_path, monkeypatch):
    """Every part of the loss is on, and codes die (and are revived) within a few steps."""
    monkeypatch.setattr(train_tokenizer, "CodeRevival", functools.partial(CodeRevival, decay=0.1))
    torch.manual_seed(3)
    network = Classifier(ClassifierConfig(image_channels=1, widths=(4, 8))).save_pretrained(
        tmp_path / "network"
    )
    return TokenizerTraining(
        model=SHAPE, perceptual_network=str(network), adversarial=0.5, adversarial_start=0.3,
        revive_every=2, muon_lr=0.01, decay=0.2, **COMMON,
    )  # fmt: skip


@pytest.fixture
def tokenizer_folder(tmp_path):
    return make_tokenizer(sizes=(1, 2), vocab_size=24).save_pretrained(tmp_path / "tokenizer")


@pytest.fixture
def var_config(tokenizer_folder):
    """Label dropout and drop path draw random numbers at every step."""
    model = VARConfig(depth=2, width=16, heads=2, drop_path=0.3, label_dropout=0.3, init_gamma=1.0)
    return VARTraining(
        model=model, tokenizer=str(tokenizer_folder), accumulate=2, muon_lr=0.02, **COMMON
    )


@pytest.fixture(params=["tokenizer", "var"])
def loop(request):
    """(train, config, until): until(out, step, action) trains until `action` ends it in `step`."""
    module = {"tokenizer": train_tokenizer, "var": train_var}[request.param]
    config = request.getfixturevalue(f"{request.param}_config")
    source = "batches" if module is train_tokenizer else "token_batches"
    make = getattr(module, source)

    def until(out, step, action, resume=False):
        def stream(*args, **kwargs):
            first = kwargs["start_step"] if "start_step" in kwargs else args[3]
            for number, batch in zip(itertools.count(first), make(*args, **kwargs)):
                if number == step:
                    action()
                yield batch

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, source, stream)
            with pytest.raises((Killed, SystemExit)) as ended:
                module.train(config, out, resume=resume)
        return ended.value

    return module.train, config, until


WHOLE = {}


@pytest.fixture
def whole(loop, tmp_path_factory):
    """The folder of an uninterrupted run, made once for each loop and precision."""
    train, config, _ = loop
    key = type(config), precision()
    if key not in WHOLE:
        WHOLE[key] = train(config, tmp_path_factory.mktemp("whole") / "run")
    return WHOLE[key]


def raise_killed():
    raise Killed


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def log_rows(folder):
    return [row | {"seconds": 0} for row in read_rows(folder / "log.csv")]


def checkpoint(folder):
    """The newest training state: weights, averages, optimizer, counts and random numbers."""
    entry = json.loads((folder / "state" / "index.json").read_text())["checkpoints"][0]["file"]
    return load_file(folder / "state" / entry)


def assert_equal_runs(a, b, tensors=100):
    states = checkpoint(a), checkpoint(b)
    assert states[0].keys() == states[1].keys() and len(states[0]) > tensors
    assert [k for k, t in states[0].items() if not t.equal(states[1][k])] == []
    models = [load_file(folder / "model.safetensors") for folder in (a, b)]
    assert models[0].keys() == models[1].keys()
    assert all(t.equal(models[1][k]) for k, t in models[0].items())
    assert (a / "config.json").read_bytes() == (b / "config.json").read_bytes()
    assert log_rows(a) == log_rows(b)


@pytest.mark.parametrize(
    ("tiny_world", "step"),
    [("float32", 6), ("float32", STEPS - 1), ("bfloat16", 6)],
    indirect=["tiny_world"],
)
def test_a_terminated_run_saves_and_goes_on_bit_equal(loop, whole, tmp_path, capsys, step):
    train, config, until = loop
    out = tmp_path / "stopped"
    assert until(out, step, terminate).code == 128 + signal.SIGTERM
    assert f"--resume --out {out}" in capsys.readouterr().err
    assert not (out / "model.safetensors").exists()
    assert f"step-{step + 1:08d}.safetensors" in {p.name for p in (out / "state").iterdir()}
    early = shutil.copytree(out, tmp_path / "early")  # ended early: no step, only its model
    train(replace(config, images=config.batch_size), early, resume=True)
    assert (early / "model.safetensors").exists()
    assert train(config, out, resume=True) == out
    assert_equal_runs(whole, out)
    sessions = json.loads((out / "run.json").read_text())["sessions"]
    assert [s["from_step"] for s in sessions] == [0, step + 1]
    train(config, out, resume=True)  # a finished run has nothing left to do
    assert_equal_runs(whole, out)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(loop, whole, tmp_path, damaged):
    train, config, until = loop
    out = tmp_path / "killed"
    for step, resume in ((2, False), (7, True), (11, True)):  # before any checkpoint, then later
        assert isinstance(until(out, step, raise_killed, resume), Killed)
    if damaged:
        newest = out / "state" / "step-00000008.safetensors"
        newest.write_bytes(newest.read_bytes()[:-100])
    torch.manual_seed(99)
    train(config, out, resume=True)
    assert_equal_runs(whole, out)


def test_a_stopped_classifier_goes_on_bit_equal(tmp_path, monkeypatch):
    """Its shifts are drawn step by step, and its schedule and its norms have a state."""
    shape = ClassifierConfig(widths=(4, 8))  # channels and classes follow the data
    config = ClassifierTraining(data="toy", model=shape, epochs=3, batch_size=5, checkpoint_every=3)
    monkeypatch.setattr(classifier, "load_images", lambda name, split: image_set(split))
    whole, make = classifier.train(config, tmp_path / "whole"), classifier.batches

    def stream(*args, start_step, **options):
        for step, batch in enumerate(make(*args, start_step=start_step, **options), start_step):
            if step == 6:
                terminate()
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(classifier, "batches", stream)
        with pytest.raises(SystemExit):
            classifier.train(config, tmp_path / "stopped")
    torch.manual_seed(99)
    classifier.train(config, tmp_path / "stopped", resume=True)
    assert_equal_runs(whole, tmp_path / "stopped", tensors=20)
    config = Classifier.from_pretrained(whole).config
    assert config == replace(shape, image_channels=1, num_classes=3)
    assert [row["step"] for row in log_rows(whole)] == [4, 8, 12]


def test_codes_were_revived_before_and_after_the_stop(tokenizer_config, tmp_path, monkeypatch):
    """What the tests above rest on: revival has something to do in this setting."""
    revived, revive = [], CodeRevival.revive
    monkeypatch.setattr(
        CodeRevival, "revive", lambda self, f: revived.append(revive(self, f)) or revived[-1]
    )
    train_tokenizer.train(tokenizer_config, tmp_path / "run")
    assert len(revived) == 5  # every second step while the learning rate is flat
    assert revived[0] + revived[1] > 0 and revived[3] + revived[4] > 0


def test_recomputed_activations_change_nothing(loop, whole, tmp_path):
    """Also where a run that kept them goes on with recomputing."""
    train, config, until = loop
    assert_equal_runs(whole, train(replace(config, recompute=True), tmp_path / "all"))
    until(tmp_path / "half", 6, terminate)
    train(replace(config, recompute=True), tmp_path / "half", resume=True)
    assert_equal_runs(whole, tmp_path / "half")


def test_a_run_leaves_a_model_and_its_log(loop, whole):
    _, config, _ = loop
    files = {p.name for p in whole.iterdir()}
    assert {"config.json", "model.safetensors", "log.csv", "run.json", "state"} <= files
    assert not list(whole.rglob("*.tmp"))
    rows = log_rows(whole)
    assert [r["step"] for r in rows] == [3, 6, 9, 12, 13]
    assert [r["images"] for r in rows] == [12, 24, 36, 48, 52]
    told = json.loads((whole / "run.json").read_text())
    assert told["config"]["images"] == config.images and told["sessions"][0]["hardware"]
    kept = {p.name for p in (whole / "state").iterdir()}
    assert kept == {"index.json", "step-00000012.safetensors", "step-00000013.safetensors"}
    ema = {k.split("/module.")[1]: t for k, t in checkpoint(whole).items() if "/ema/module." in k}
    model = load_file(whole / "model.safetensors")
    assert ema.keys() == model.keys() and all(t.equal(ema[k]) for k, t in model.items())


def test_the_tokenizer_log_shows_every_scale(tokenizer_config, tmp_path):
    out = train_tokenizer.train(tokenizer_config, tmp_path / "run")
    rows = log_rows(out)
    names = "step images seconds lr loss reconstruction vq perceptual adversarial psnr usage_1"
    assert list(rows[0]) == [*names.split(), "usage_2", "usage_all", "skipped"]
    for row in rows:
        assert all(0 < row[k] <= 1 for k in ("usage_1", "usage_2", "usage_all"))
        assert row["perceptual"] > 0 and row["psnr"] > 0
    assert rows[0]["adversarial"] == 0 != rows[-1]["adversarial"]
    assert MultiScaleVQVAE.from_pretrained(out).config == SHAPE


def test_the_usage_of_the_last_row_counts_the_steps_since_the_row_before(
    tokenizer_config, tmp_path, monkeypatch
):
    """One image a step and 1x1 maps only: every step can add one code, and each adds a new one."""
    shape = replace(SHAPE, sizes=(1, 2), vocab_size=64)
    config = replace(tokenizer_config, images=5, batch_size=1, log_every=4, adversarial=0.0,
                     model=shape)  # fmt: skip
    tokens = iter(range(100))
    lookup = train_tokenizer.MultiScaleVQVAE.forward

    def distinct(self, images):
        result = lookup(self, images)
        result.tokens[0] = torch.tensor([[[next(tokens)]]])
        return result

    monkeypatch.setattr(train_tokenizer.MultiScaleVQVAE, "forward", distinct)
    rows = log_rows(train_tokenizer.train(config, tmp_path / "run"))
    assert [r["usage_1"] for r in rows] == [1.0, 1.0]


def test_the_var_log_shows_every_scale(var_config, tmp_path):
    out = train_var.train(var_config, tmp_path / "run")
    rows = log_rows(out)
    assert {"lr", "loss", "loss_last", "accuracy", "accuracy_last"} <= set(rows[0])
    for row in rows:
        # 1 token in the first scale, 4 in the last
        parts = row["val_loss_1"], row["val_loss_2"]
        assert row["val_loss"] == pytest.approx((parts[0] + 4 * parts[1]) / 5, rel=1e-4)
        assert row["val_loss_last"] == pytest.approx(parts[1], rel=1e-4)
        assert 0 <= row["accuracy"] <= 1
    model = VAR.from_pretrained(out)
    shape = dict(sizes=(1, 2), vocab_size=24, code_channels=4, num_classes=3)
    assert model.config == replace(var_config.model, **shape)
    told = json.loads((out / "run.json").read_text())
    trained = told["config"]["model"] | {"sizes": tuple(told["config"]["model"]["sizes"])}
    assert told["kind"] == "var" and VARConfig(**trained) == model.config


@pytest.mark.parametrize("parts", [2, 4, 9])  # of 5 images: 3 + 2; 2 + 2 + 1; singly
def test_accumulated_gradients_and_losses_are_those_of_the_whole_batch(var_config, tmp_path, parts):
    plain = replace(var_config.model, drop_path=0.0, label_dropout=0.0)
    config = replace(var_config, model=plain, accumulate=1, images=15, batch_size=5, log_every=1,
                     clip=1e9, ema=0.0, muon_lr=0)  # fmt: skip
    runs = [
        train_var.train(replace(config, **change), tmp_path / str(i))
        for i, change in enumerate(({}, {"accumulate": parts}, {"lr": 0.0}))
    ]
    whole, cut, start = (
        torch.cat([t.flatten() for t in load_file(run / "model.safetensors").values()])
        for run in runs
    )
    # As a share of the way, for Adam blows up what rounding leaves of a gradient of zero.
    assert (whole - cut).abs().sum() < 1e-3 * (whole - start).abs().sum()
    first = [log_rows(run)[0] for run in runs[:2]]
    for name in ("loss", "loss_last", "accuracy", "accuracy_last"):
        assert first[0][name] == pytest.approx(first[1][name], rel=1e-5)


def test_losses_fall(tokenizer_config, var_config, tmp_path):
    usual = dict(adversarial=0.0, perceptual_network="", checkpoint_every=99)
    config = replace(tokenizer_config, images=400, log_every=4, lr=3e-3, **usual)
    rows = log_rows(train_tokenizer.train(config, tmp_path / "a"))
    assert rows[-1]["reconstruction"] < 0.75 * rows[0]["reconstruction"]
    assert rows[-1]["psnr"] > rows[0]["psnr"] + 0.5
    shape = replace(var_config.model, drop_path=0.0, label_dropout=0.1)
    config = replace(var_config, images=400, log_every=10, lr=1e-2, tokenizer=str(tmp_path / "a"),
                     checkpoint_every=99, model=shape)  # fmt: skip
    rows = log_rows(train_var.train(config, tmp_path / "b"))
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_token_maps_are_written_once_and_again_when_the_tokenizer_changes(
    var_config, tmp_path, monkeypatch
):
    calls, encode = [], MultiScaleVQVAE.encode
    monkeypatch.setattr(
        MultiScaleVQVAE,
        "encode",
        lambda self, images: calls.append(len(images)) or encode(self, images),
    )
    out = train_var.train(var_config, tmp_path / "run")
    assert sum(calls) == 23 + 23 + 6  # train, mirrored, test; never again in any epoch
    train_var.train(var_config, out, resume=True)
    assert sum(calls) == 52
    with torch.no_grad():
        tok = MultiScaleVQVAE.from_pretrained(var_config.tokenizer)
        tok.quantizer.codebook.weight.neg_()
    tok.save_pretrained(var_config.tokenizer)
    train_var.train(var_config, out, overwrite=True)
    assert sum(calls) == 104


def test_cached_token_maps_are_those_of_the_tokenizer(tokenizer_folder, tmp_path):
    tok = MultiScaleVQVAE.from_pretrained(tokenizer_folder)
    images = image_set("train").images.float() / 127.5 - 1
    wanted = [tok.schedule.flatten(tok.encode(x)) for x in (images, images.flip(3))]
    everything = torch.arange(23)
    how = dict(flip=True, batch_size=7, shard=10)
    for _ in range(2):  # written, then read
        data = token_set(tok, "sum", image_set("train"), tmp_path, "train", **how)
        assert [tuple(s.shape) for s in data.shards] == [(2, 10, 5), (2, 10, 5), (2, 3, 5)]
        assert data.rows(everything).equal(wanted[0])
        assert data.rows(everything, torch.ones(23).long()).equal(wanted[1])
        assert data.labels.equal(torch.arange(23) % 3)
    mixed = torch.tensor([22, 3, 9, 10, 3]), torch.tensor([1, 0, 1, 0, 1])
    assert data.rows(*mixed).equal(torch.stack(wanted)[mixed[1], mixed[0]])
    path = tmp_path / "train-00001-of-00003.safetensors"
    whole = path.read_bytes()
    others = {p: p.stat().st_mtime_ns for p in tmp_path.glob("train-*") if p != path}
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    turned = whole.replace(b"[2,10,5]", b"[5,10,2]")  # the same bytes and crc32
    assert turned != whole
    for content in (whole[:-40], b"", bytes(flipped), turned):
        path.unlink()  # what was read may still be mapped from the old file
        path.write_bytes(content)
        again = token_set(tok, "sum", image_set("train"), tmp_path, "train", **how)
        assert again.rows(everything).equal(wanted[0]) and again.labels.equal(data.labels)
        assert path.stat().st_size == len(whole)  # made again, and no other
        assert others == {p: p.stat().st_mtime_ns for p in others}


def test_other_images_of_the_same_name_and_number_are_encoded_again(tmp_path):
    tok = make_tokenizer(sizes=(1, 2), vocab_size=70_000)  # more codes than 16 bits count
    for pixels in (image_set("train").images, 255 - image_set("train").images):
        dataset = ImageSet(pixels, torch.zeros(23).long(), ("a",), "mine")
        data = token_set(tok, "sum", dataset, tmp_path, "train", flip=False)
        wanted = tok.schedule.flatten(tok.encode(pixels.float() / 127.5 - 1))
        assert data.rows(torch.arange(23)).equal(wanted)


def test_token_batches_start_anywhere_mirror_half_and_come_in_shares():
    tokens = torch.stack([torch.arange(10), torch.arange(10) + 10])[..., None].to(torch.int16)
    data = TokenSet(tokens.split(4, dim=1), torch.arange(10))
    whole = list(itertools.islice(train_var.token_batches(data, 3, 5, 0), 12))
    for start in range(12):
        late = itertools.islice(train_var.token_batches(data, 3, 5, start), 12 - start)
        for (a, b), (c, d) in zip(whole[start:], late, strict=True):
            assert a.equal(c) and b.equal(d)
        parts = (slice(1), slice(1, 3))
        shares = [next(train_var.token_batches(data, 3, 5, start, part)) for part in parts]
        assert all(torch.cat(x).equal(y) for x, y in zip(zip(*shares), whole[start]))
    for batch, labels in whole:
        assert batch.dtype == torch.int64 and (batch[:, 0] % 10).equal(labels)
    assert {bool(t >= 10) for batch, _ in whole for t in batch[:, 0]} == {False, True}


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_never_overwrites_another_nor_goes_on_as_another(loop, tmp_path):
    train, config, _ = loop
    config = replace(config, images=8)
    out = train(config, tmp_path / "run")
    before = contents(out)
    with pytest.raises(ValueError, match="--resume.*--overwrite"):
        train(config, out)
    wider = replace(config.model, width=2 * config.model.width)
    for name, value in {"seed": 5, "batch_size": 2, "model": wider}.items():
        with pytest.raises(ValueError, match=f"started with {name}"):
            train(replace(config, **{name: value}), out, resume=True)
    assert contents(out) == before
    train(replace(config, seed=1), out, overwrite=True)
    weights = Path("model.safetensors")
    assert contents(out)[weights] != before[weights]
    assert len(log_rows(out)) == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(data="toys"), "toys"),
        (dict(batch_size=24), "24.*23"),
        (dict(batch_size=0), "batch_size"),
        (dict(log_every=0), "log_every"),
        (dict(checkpoint_every=0), "checkpoint_every"),
        (dict(images=0), "images"),
        (dict(held_out=0), "held_out"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_costs_nothing_on_disk(loop, tmp_path, changes, words):
    train, config, _ = loop
    out = train(replace(config, images=8), tmp_path / "run")
    before = contents(out)
    with pytest.raises(ValueError, match=words) as error:
        train(replace(config, **{"images": 8} | changes), out, overwrite=True)
    assert "\n" not in str(error.value)
    assert contents(out) == before


def test_a_schedule_that_does_not_end_at_the_latent_size_is_named(tokenizer_config, tmp_path):
    config = replace(tokenizer_config, model=replace(SHAPE, sizes=(1, 3)))
    with pytest.raises(ValueError) as error:
        train_tokenizer.train(config, tmp_path / "run")
    # What is wrong (the schedule), what would fit (2x2 for 8x8 pixels at factor 4).
    assert "3" in str(error.value) and "2" in str(error.value) and "schedule" in str(error.value)


def test_a_tokenizer_that_does_not_fit_is_named(var_config, tmp_path):
    other = make_tokenizer(sizes=(1, 4)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\).*\(B, 1, 16, 16\)"):
        train_var.train(replace(var_config, tokenizer=str(other)), tmp_path / "run")
    with pytest.raises(ValueError, match="no tokenizer named 'nothing'"):
        train_var.train(replace(var_config, tokenizer="nothing"), tmp_path / "run")
    out = train_var.train(replace(var_config, images=8), tmp_path / "run")
    other = make_tokenizer(seed=1, sizes=(1, 2), vocab_size=24).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="tokenizer"):
        train_var.train(replace(var_config, images=16), out, tokenizer=other, resume=True)


def test_a_run_starts_from_weights_that_fit_and_names_others(var_config, tmp_path):
    first = train_var.train(replace(var_config, images=8), tmp_path / "first")
    model = replace(var_config.model, drop_path=0.0)
    still = replace(var_config, images=4, lr=0.0, muon_lr=0.0, weights=str(first), model=model)
    again = train_var.train(still, tmp_path / "again")
    given, kept = (load_file(folder / "model.safetensors") for folder in (first, again))
    assert all(torch.equal(given[name], kept[name]) for name in given)
    wider = replace(still, model=replace(still.model, width=32))
    with pytest.raises(ValueError, match="width=16.*expected.*width=32"):
        train_var.train(wider, tmp_path / "wider")
    assert not (tmp_path / "wider").exists()


def test_perceptual_networks_by_name(tmp_path):
    assert train_tokenizer.perceptual_network("") is None
    with pytest.raises(ValueError, match="no classifier named 'vgg'"):
        train_tokenizer.perceptual_network("vgg")
