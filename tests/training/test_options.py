"""Every option of a training run changes what the run leaves, or is not there."""

from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from tiny import make_tokenizer

from varmini import VARConfig
from varmini.data import ImageSet, to_float
from varmini.training import classifier, train_tokenizer, train_var
from varmini.training.classifier import Classifier
from varmini.training.codebook import CodeRevival
from varmini.training.configs import (
    ClassifierConfig,
    ClassifierTraining,
    TokenizerTraining,
    VARTraining,
)

SHAPE = make_tokenizer(sizes=(1, 2), vocab_size=24).config
VAR_SHAPE = VARConfig(depth=1, width=16, heads=2)
COMMON = dict(
    seed=1, images=24, batch_size=3, checkpoint_every=2, log_every=3, held_out=4, flip=False,
    lr=0.01, muon_lr=0.02, warmup=0.5, decay=0.6, final=0.5, weight_decay=0.5, clip=1e-3, ema=0.5,
)  # fmt: skip
CHANGES = {
    "tokenizer": COMMON | dict(
        quantizer_lr=2.0, l1=0.3, l2=0.5, vq=0.5, diversity=0.1, perceptual=0.5,
        perceptual_network="", adversarial=0.1, adversarial_start=0.6, discriminator_layers=1,
        revive_every=1, model=replace(SHAPE, vocab_size=9), decoder_of="{tokenizer}",
    ),
    "var": COMMON | dict(
        accumulate=2, final_weight_decay=1.0, model=replace(VAR_SHAPE, depth=2),
        tokenizer="{tokenizer}",
    ),
    "classifier": dict(
        seed=1, epochs=2, batch_size=3, checkpoint_every=2, lr=0.01, weight_decay=0.5,
        model=ClassifierConfig(widths=(4, 6)),
    ),
}  # fmt: skip
"""Another value for each option; "{tokenizer}" stands for another tokenizer's folder."""
ELSEWHERE = {
    "data": "test_train.py: other images are encoded again",
    "workers": "test_imagenet_data.py: they decode, and change no batch",
    "recompute": "test_plan.py: less memory; test_train.py: the same weights",
    "compile": "on a GPU alone",
    "weights": "test_train.py: a run starts from weights",
    "parallel": "test_distributed.py: the same weights in shares",
}
"""Options that change no file of a run on one CPU."""


def toy(*args):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (18, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(18) % 3, ("a", "b", "c"), "toy")


def left(out):
    """What a run leaves, less the settings it notes and the seconds it took."""
    log = [line.split(",") for line in (out / "log.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(log[0]) if name != "seconds"]
    names = sorted(p.name for p in (out / "state").iterdir())
    rows = [[row[i] for i in kept] for row in log]
    return rows, names, (out / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every kind's plain options, what they leave, and changed(kind, option): what is left then."""
    folder = tmp_path_factory.mktemp("options")
    tokenizers = []
    for seed in (0, 1):
        tok = make_tokenizer(seed, sizes=(1, 2), vocab_size=24)
        CodeRevival(tok.quantizer).start(tok.features(to_float(toy().images)))
        tokenizers.append(str(tok.save_pretrained(folder / str(seed))))
    torch.manual_seed(3)
    shape = ClassifierConfig(image_channels=1, widths=(4, 8))
    network = Classifier(shape).save_pretrained(folder / "network")
    common = dict(data="toy", images=18, batch_size=6, log_every=1, held_out=6)
    starts = {
        "tokenizer": TokenizerTraining(model=SHAPE, perceptual_network=str(network),
                                       adversarial=0.5, revive_every=2, **common),
        "var": VARTraining(model=VAR_SHAPE, tokenizer=str(tokenizers[0]), **common),
        "classifier": ClassifierTraining(data="toy", model=ClassifierConfig(widths=(4, 8)),
                                         epochs=1, batch_size=6),
    }  # fmt: skip
    modules = {"tokenizer": train_tokenizer, "var": train_var, "classifier": classifier}
    patch = pytest.MonkeyPatch()
    for module in (train_tokenizer, train_var):
        patch.setattr(module, "fitted", toy)
    patch.setattr(
        train_tokenizer, "CodeRevival", partial(CodeRevival, decay=0.01)
    )  # codes die at once
    patch.setattr(classifier, "load_images", toy)

    def changed(kind, option):
        value = CHANGES[kind].get(option)
        options = {option: tokenizers[1] if value == "{tokenizer}" else value} if option else {}
        out = folder / f"{kind}-{option}"
        return left(modules[kind].train(replace(starts[kind], **options), out, overwrite=True))

    yield starts, {kind: changed(kind, "") for kind in starts}, changed
    patch.undo()


@pytest.mark.parametrize("kind", CHANGES)
def test_the_table_has_every_option(kind, runs):
    starts, plain, changed = runs
    names = {field.name for field in fields(starts[kind])}
    assert names - ELSEWHERE.keys() == CHANGES[kind].keys()
    assert changed(kind, "") == plain[kind]  # what differs below is not luck


@pytest.mark.parametrize("kind, option", [(k, o) for k in CHANGES for o in CHANGES[k]])
def test_an_option_changes_the_run(kind, option, runs):
    _, plain, changed = runs
    assert changed(kind, option) != plain[kind]
