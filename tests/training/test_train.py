"""Both training loops in a tiny setting: stopped and resumed runs are bit-equal to whole ones."""

import csv
import functools
import itertools
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import make_tokenizer

from varmini import VAR, MultiScaleVQVAE, VARConfig
from varmini.data import ImageSet
from varmini.runtime.machine import precision
from varmini.training import classifier, train_tokenizer, train_var
from varmini.training.classifier import Classifier
from varmini.training.codebook import CodeRevival
from varmini.training.configs import (
    ClassifierConfig,
    ClassifierTraining,
    TokenizerTraining,
    VARTraining,
)
from varmini.training.optim import make_optimizers
from varmini.training.token_sets import TokenSet, token_set

STEPS = 13  # 23 training images in batches of 4: more than two epochs
SHAPE = make_tokenizer(sizes=(1, 2), vocab_size=24).config


class Killed(BaseException):
    """Ends a loop without any clean-up of its own, as SIGKILL would."""


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
        data="toy",
        model=SHAPE,
        images=STEPS * 4,
        batch_size=4,
        muon_lr=0.01,
        perceptual_network=str(network),
        adversarial=0.5,
        adversarial_start=0.3,
        revive_every=2,
        decay=0.2,
        log_every=3,
        checkpoint_every=4,
        held_out=5,
        ema=0.9,
    )


@pytest.fixture
def tokenizer_folder(tmp_path):
    return make_tokenizer(sizes=(1, 2), vocab_size=24).save_pretrained(tmp_path / "tokenizer")


@pytest.fixture
def var_config(tokenizer_folder):
    """Label dropout and drop path draw random numbers at every step."""
    return VARTraining(
        data="toy",
        tokenizer=str(tokenizer_folder),
        images=STEPS * 4,
        batch_size=4,
        accumulate=2,
        muon_lr=0.02,
        model=VARConfig(
            depth=2, width=16, heads=2, drop_path=0.3, label_dropout=0.3, init_gamma=1.0
        ),
        log_every=3,
        checkpoint_every=4,
        held_out=5,
        ema=0.9,
    )


@pytest.fixture(params=["tokenizer", "var"])
def loop(request):
    """(train, config, interrupt): interrupt(monkeypatch, step, action) acts in that step."""
    module = {"tokenizer": train_tokenizer, "var": train_var}[request.param]
    config = request.getfixturevalue(f"{request.param}_config")
    source = "batches" if module is train_tokenizer else "token_batches"

    def interrupt(patch, step, action):
        make = getattr(module, source)

        def stream(*args, **kwargs):
            first = kwargs["start_step"] if "start_step" in kwargs else args[3]
            for number, batch in zip(itertools.count(first), make(*args, **kwargs)):
                if number == step:
                    action()
                yield batch

        patch.setattr(module, source, stream)

    return module.train, config, interrupt


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
    with open(folder / "log.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


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


# ---------------------------------------------------------------------------------- stop and resume


def test_two_runs_of_one_seed_are_equal_and_of_two_differ(loop, tmp_path):
    train, config, _ = loop
    config = replace(config, images=24)
    a, b, c = (
        train(replace(config, seed=seed), tmp_path / name)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert_equal_runs(a, b)
    models = [load_file(folder / "model.safetensors") for folder in (a, c)]
    assert any(not t.equal(models[1][k]) for k, t in models[0].items())


@pytest.mark.parametrize("step", [6, 10])
def test_a_terminated_run_saves_and_goes_on_bit_equal(
    loop, whole, tmp_path, monkeypatch, capsys, step
):
    train, config, interrupt = loop
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        interrupt(patch, step, terminate)
        with pytest.raises(SystemExit) as stopped:
            train(config, out)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert f"--resume --out {out}" in capsys.readouterr().err
    assert not (out / "model.safetensors").exists()
    assert f"step-{step + 1:08d}.safetensors" in {p.name for p in (out / "state").iterdir()}
    assert train(config, out, resume=True) == out
    assert_equal_runs(whole, out)
    sessions = json.loads((out / "run.json").read_text())["sessions"]
    assert [s["from_step"] for s in sessions] == [0, step + 1]


def test_a_killed_run_goes_on_from_its_last_checkpoint_bit_equal(
    loop, whole, tmp_path, monkeypatch
):
    train, config, interrupt = loop
    out = tmp_path / "killed"
    for step, resume in ((2, False), (7, True), (11, True)):  # before any checkpoint, then later
        with monkeypatch.context() as patch:
            interrupt(patch, step, raise_killed)
            with pytest.raises(Killed):
                train(config, out, resume=resume)
    torch.manual_seed(99)
    train(config, out, resume=True)
    assert_equal_runs(whole, out)


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    loop, whole, tmp_path, monkeypatch
):
    train, config, interrupt = loop
    out = tmp_path / "damaged"
    with monkeypatch.context() as patch:
        interrupt(patch, 9, raise_killed)
        with pytest.raises(Killed):
            train(config, out)
    newest = out / "state" / "step-00000008.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    train(config, out, resume=True)
    assert_equal_runs(whole, out)


def test_a_signal_in_the_last_step_loses_nothing(loop, whole, tmp_path, monkeypatch):
    train, config, interrupt = loop
    out = tmp_path / "last"
    with monkeypatch.context() as patch:
        interrupt(patch, STEPS - 1, terminate)
        with pytest.raises(SystemExit):
            train(config, out)
    train(config, out, resume=True)
    assert_equal_runs(whole, out)
    train(config, out, resume=True)  # a finished run has nothing left to do
    assert_equal_runs(whole, out)


@pytest.mark.parametrize("tiny_world", ["bfloat16"], indirect=True)
def test_a_stopped_run_in_bfloat16_goes_on_bit_equal(loop, whole, tmp_path, monkeypatch):
    train, config, interrupt = loop
    with monkeypatch.context() as patch:
        interrupt(patch, 6, terminate)
        with pytest.raises(SystemExit):
            train(config, tmp_path / "stopped")
    train(config, tmp_path / "stopped", resume=True)
    assert_equal_runs(whole, tmp_path / "stopped")


def test_a_stopped_classifier_goes_on_bit_equal(tmp_path, monkeypatch):
    """Its shifts are drawn step by step, and its schedule and its norms have a state."""
    shape = ClassifierConfig(num_classes=3, image_channels=1, widths=(4, 8))
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
    assert [row["step"] for row in log_rows(whole)] == ["4", "8", "12"]


def test_codes_were_revived_before_and_after_the_stop(tokenizer_config, tmp_path, monkeypatch):
    """What the tests above rest on: revival has something to do in this setting."""
    revived, revive = [], CodeRevival.revive
    monkeypatch.setattr(
        CodeRevival, "revive", lambda self, f: revived.append(revive(self, f)) or revived[-1]
    )
    train_tokenizer.train(tokenizer_config, tmp_path / "run")
    assert len(revived) == 5  # every second step while the learning rate is flat
    assert revived[0] + revived[1] > 0 and revived[3] + revived[4] > 0


def test_recomputed_activations_change_nothing(loop, whole, tmp_path, monkeypatch):
    """Also where a run that kept them goes on with recomputing."""
    train, config, interrupt = loop
    assert_equal_runs(whole, train(replace(config, recompute=True), tmp_path / "all"))
    with monkeypatch.context() as patch:
        interrupt(patch, 6, terminate)
        with pytest.raises(SystemExit):
            train(config, tmp_path / "half")
    train(replace(config, recompute=True), tmp_path / "half", resume=True)
    assert_equal_runs(whole, tmp_path / "half")


def test_what_is_not_there_cannot_be_resumed(loop, tmp_path):
    train, config, _ = loop
    for out in (tmp_path / "nothing", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=f"{out.name} holds no run to resume") as error:
            train(config, out, resume=True)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "nothing").exists() and not any((tmp_path / "empty").iterdir())


# ---------------------------------------------------------------------------------- what is written


def test_a_run_leaves_a_model_and_its_log(loop, tmp_path):
    train, config, _ = loop
    out = train(config, tmp_path / "run")
    assert {"config.json", "model.safetensors", "log.csv", "run.json", "state"} <= {
        p.name for p in out.iterdir()
    }
    assert not list(out.rglob("*.tmp"))
    rows = log_rows(out)
    assert [int(r["step"]) for r in rows] == [3, 6, 9, 12, 13]
    assert [int(r["images"]) for r in rows] == [12, 24, 36, 48, 52]
    told = json.loads((out / "run.json").read_text())
    assert told["config"]["images"] == config.images and told["sessions"][0]["hardware"]
    kept = {p.name for p in (out / "state").iterdir()}
    assert kept == {"index.json", "step-00000012.safetensors", "step-00000013.safetensors"}


def test_the_tokenizer_log_shows_every_scale(tokenizer_config, tmp_path):
    out = train_tokenizer.train(tokenizer_config, tmp_path / "run")
    rows = log_rows(out)
    names = "step images lr loss reconstruction vq perceptual adversarial psnr usage_1 usage_2"
    assert list(rows[0]) == [*names.split(), "usage_all", "skipped"]
    for row in rows:
        assert all(0 < float(row[k]) <= 1 for k in ("usage_1", "usage_2", "usage_all"))
        assert float(row["perceptual"]) > 0 and float(row["psnr"]) > 0
    assert float(rows[0]["adversarial"]) == 0 != float(rows[-1]["adversarial"])
    model = MultiScaleVQVAE.from_pretrained(out)
    assert model.config == SHAPE
    ema = {k.split("/module.")[1]: t for k, t in checkpoint(out).items() if "/ema/module." in k}
    assert ema and all(t.equal(ema[k]) for k, t in model.state_dict().items())


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
    assert [float(r["usage_1"]) for r in rows] == [1.0, 1.0]


def test_the_var_log_shows_every_scale(var_config, tmp_path):
    out = train_var.train(var_config, tmp_path / "run")
    rows = log_rows(out)
    names = "step images lr loss loss_last accuracy accuracy_last val_loss val_loss_last"
    assert set(names.split()) <= set(rows[0])
    scales = [k for k in rows[0] if k.endswith(("loss_1", "loss_2"))]
    assert len(scales) == 2
    for row in rows:
        # 1 token in the first scale, 4 in the last
        parts = [float(row[k]) for k in scales]
        assert float(row["val_loss"]) == pytest.approx((parts[0] + 4 * parts[1]) / 5, rel=1e-4)
        assert float(row["val_loss_last"]) == pytest.approx(parts[1], rel=1e-4)
        assert 0 <= float(row["accuracy"]) <= 1
    model = VAR.from_pretrained(out)
    assert model.config == replace(
        var_config.model, sizes=(1, 2), vocab_size=24, code_channels=4, num_classes=3
    )
    ema = {k.split("/module.")[1]: t for k, t in checkpoint(out).items() if "/ema/module." in k}
    assert ema and all(t.equal(ema[k]) for k, t in model.state_dict().items())


@pytest.mark.parametrize("parts", [2, 4, 9])  # of 5 images: 3 + 2; 2 + 2 + 1; singly
def test_accumulated_gradients_are_those_of_the_whole_batch(var_config, tmp_path, parts):
    plain = replace(var_config.model, drop_path=0.0, label_dropout=0.0)
    config = replace(
        var_config, model=plain, accumulate=1, images=15, batch_size=5, clip=1e9, ema=0.0, muon_lr=0
    )
    whole, cut = (
        VAR.from_pretrained(train_var.train(replace(config, accumulate=n), tmp_path / str(n)))
        for n in (1, parts)
    )
    start = VAR.from_pretrained(train_var.train(replace(config, lr=0.0), tmp_path / "start"))
    ends = [
        torch.cat([p.detach().flatten() for p in model.parameters()])
        for model in (whole, cut, start)
    ]
    # As a share of the way, for Adam blows up what rounding leaves of a gradient of zero.
    assert (ends[0] - ends[1]).abs().sum() < 1e-3 * (ends[0] - ends[2]).abs().sum()


def test_muon_takes_the_matrices_of_the_blocks_and_no_other_parameter(var_config):
    model = VAR(VARConfig(depth=1, width=16, heads=2, sizes=(1, 2)))
    held = {
        name: {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, optimizer in make_optimizers(model, 1e-3, 0.05, 0.02).items()
    }
    names = ("attention.qkv", "attention.proj", "fc1", "fc2")
    assert held["muon"] == {id(model.blocks[0].get_parameter(f"{n}.weight")) for n in names}
    assert held["optimizer"] == {id(p) for p in model.parameters()} - held["muon"]
    assert list(make_optimizers(model, 1e-3, 0.05)) == ["optimizer"]


def test_the_logged_loss_is_that_of_the_whole_batch(var_config, tmp_path):
    plain = replace(var_config.model, drop_path=0.0, label_dropout=0.0)
    config = replace(var_config, model=plain, images=5, batch_size=5, log_every=1)
    first = [
        log_rows(train_var.train(replace(config, accumulate=n), tmp_path / str(n)))[0]
        for n in (1, 2)  # 5 images; 3 and 2
    ]
    for name in ("loss", "loss_last", "accuracy", "accuracy_last"):
        assert float(first[0][name]) == pytest.approx(float(first[1][name]), rel=1e-5)


def test_run_json_holds_the_shape_that_was_trained(var_config, tmp_path):
    out = train_var.train(replace(var_config, images=8), tmp_path / "run")
    told = json.loads((out / "run.json").read_text())
    model = told["config"]["model"]
    assert told["kind"] == "var"
    assert model["sizes"] == [1, 2] and model["vocab_size"] == 24 and model["num_classes"] == 3


def test_losses_fall(tokenizer_config, var_config, tmp_path):
    usual = dict(adversarial=0.0, perceptual_network="", checkpoint_every=99)
    config = replace(tokenizer_config, images=240, log_every=4, lr=3e-3, **usual)
    rows = log_rows(train_tokenizer.train(config, tmp_path / "a"))
    assert float(rows[-1]["reconstruction"]) < 0.75 * float(rows[0]["reconstruction"])
    assert float(rows[-1]["psnr"]) > float(rows[0]["psnr"]) + 0.5
    shape = replace(var_config.model, drop_path=0.0, label_dropout=0.1)
    config = replace(var_config, images=200, log_every=5, lr=1e-2, tokenizer=str(tmp_path / "a"),
                     checkpoint_every=99, model=shape)  # fmt: skip
    rows = log_rows(train_var.train(config, tmp_path / "b"))
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])


# --------------------------------------------------------------------------------------- token maps


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
    for content in (whole[:-40], b"", bytes(flipped)):
        path.unlink()  # what was read may still be mapped from the old file
        path.write_bytes(content)
        again = token_set(tok, "sum", image_set("train"), tmp_path, "train", **how)
        assert again.rows(everything).equal(wanted[0]) and again.labels.equal(data.labels)
        assert path.stat().st_size == len(whole)  # made again, and no other
        assert others == {p: p.stat().st_mtime_ns for p in others}


def test_other_images_of_the_same_name_and_number_are_encoded_again(tok, tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (3, 1, 16, 16), generator=generator, dtype=torch.uint8)
    for pixels in (images, 255 - images):
        dataset = ImageSet(pixels, torch.zeros(3).long(), ("a",), "mine")
        data = token_set(tok, "sum", dataset, tmp_path, "train", flip=False)
        wanted = tok.schedule.flatten(tok.encode(pixels.float() / 127.5 - 1))
        assert data.rows(torch.arange(3)).equal(wanted)


def test_a_large_codebook_fits_the_cached_token_maps(tmp_path):
    tok = make_tokenizer(sizes=(1, 2), vocab_size=70_000)
    images = image_set("train").images.float() / 127.5 - 1
    data = token_set(tok, "sum", image_set("train"), tmp_path, "train", flip=False)
    assert data.rows(torch.arange(23)).equal(tok.schedule.flatten(tok.encode(images)))


def test_token_batches_start_anywhere_and_visit_everything():
    tokens = torch.stack([torch.arange(10), torch.arange(10) + 10])[..., None].to(torch.int16)
    data = TokenSet(tokens.split(4, dim=1), torch.arange(10))
    whole = list(itertools.islice(train_var.token_batches(data, 3, 5, 0), 12))
    for start in range(12):
        late = itertools.islice(train_var.token_batches(data, 3, 5, start), 12 - start)
        for (a, b), (c, d) in zip(whole[start:], late, strict=True):
            assert a.equal(c) and b.equal(d)
    orders = set()
    for epoch in range(4):  # three batches of three: no image twice, order anew
        seen = torch.cat([labels for _, labels in whole[3 * epoch : 3 * epoch + 3]])
        assert len(seen.unique()) == 9
        orders.add(tuple(seen.tolist()))
    assert len(orders) == 4
    for batch, labels in whole:
        assert batch.dtype == torch.int64 and (batch[:, 0] % 10).equal(labels)
    assert {bool(t >= 10) for batch, _ in whole for t in batch[:, 0]} == {False, True}
    for step, (batch, labels) in enumerate(whole[:4]):  # shares of a batch make up the batch
        shares = [
            next(train_var.token_batches(data, 3, 5, step, part))
            for part in (slice(1), slice(1, 3))
        ]
        assert torch.cat([a for a, _ in shares]).equal(batch)
        assert torch.cat([b for _, b in shares]).equal(labels)
    with pytest.raises(ValueError, match="11.*10"):
        next(train_var.token_batches(data, 11, 0, 0))


# ---------------------------------------------------------------------------- folders and bad input


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_never_overwrites_another(loop, tmp_path):
    train, config, _ = loop
    config = replace(config, images=8)
    out = train(config, tmp_path / "run")
    before = contents(out)
    with pytest.raises(ValueError, match="--resume.*--overwrite"):
        train(config, out)
    assert contents(out) == before
    train(replace(config, seed=1), out, overwrite=True)
    weights = Path("model.safetensors")
    assert contents(out)[weights] != before[weights]
    assert len(log_rows(out)) == 1


def test_a_model_that_a_run_did_not_write_is_never_touched(loop, tmp_path, tokenizer_folder):
    train, config, _ = loop
    before = contents(tokenizer_folder)
    for options in ({}, dict(overwrite=True), dict(resume=True)):
        with pytest.raises(ValueError, match="run"):
            train(config, tokenizer_folder, **options)
        assert contents(tokenizer_folder) == before


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


def test_a_tokenizer_for_other_images_is_named(var_config, tmp_path):
    other = make_tokenizer(sizes=(1, 4)).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\).*\(B, 1, 16, 16\)"):
        train_var.train(replace(var_config, tokenizer=str(other)), tmp_path / "run")
    with pytest.raises(ValueError, match="no tokenizer named 'nothing'"):
        train_var.train(replace(var_config, tokenizer="nothing"), tmp_path / "run")


@pytest.mark.parametrize("change", ["seed", "batch_size", "model"])
def test_resuming_with_another_configuration_is_refused(loop, tmp_path, change):
    """The run would not go on where it stopped, but become a mixture of two."""
    train, config, _ = loop
    out = train(replace(config, images=8), tmp_path / "run")
    before = contents(out)
    wider = replace(config.model, width=2 * config.model.width)
    value = {"seed": 5, "batch_size": 2, "model": wider}
    with pytest.raises(ValueError, match=change) as error:
        train(replace(config, images=8, **{change: value[change]}), out, resume=True)
    assert "\n" not in str(error.value)
    assert contents(out) == before


def test_resuming_a_var_on_another_tokenizer_is_refused(var_config, tmp_path):
    out = train_var.train(replace(var_config, images=8), tmp_path / "run")
    other = make_tokenizer(seed=1, sizes=(1, 2), vocab_size=24).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="tokenizer"):
        train_var.train(replace(var_config, images=16), out, tokenizer=other, resume=True)


def test_perceptual_networks_by_name(tmp_path):
    assert train_tokenizer.perceptual_network("") is None
    with pytest.raises(ValueError, match="no classifier named 'vgg'"):
        train_tokenizer.perceptual_network("vgg")
