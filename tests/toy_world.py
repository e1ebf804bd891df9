"""A synthetic data set "toy" and tiny runs on it, for the tests with several processes."""

import functools
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from tiny import make_tokenizer, make_var

from varmini import MultiScaleVQVAE, ScaleSchedule, VARConfig
from varmini.data import ImageSet
from varmini.training import run_folder, train_tokenizer, train_var
from varmini.training.classifier import Classifier
from varmini.training.codebook import CodeRevival
from varmini.training.configs import ClassifierConfig, TokenizerTraining, VARTraining
from varmini.training.token_sets import token_set

STEPS, STOP = 20, 12
"""Length of every run, and the step after which it is stopped when it is."""
SHAPE = make_tokenizer(sizes=(1, 2), vocab_size=24, norm_groups=8).config
LOOPS = {"tokenizer": train_tokenizer, "var": train_var}


class Killed(BaseException):
    """Ends a loop without any clean-up of its own, as SIGKILL would."""


def image_set(name, split, *size_and_channels):
    """23 images of noise to train on, 7 to test with: neither is a multiple of two."""
    count = 23 if split == "train" else 7
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(count) % 3, ("a", "b", "c"), "toy")


def install(setattr, rows):
    """Puts the toy set in place of all others, and every logged value, unrounded, into `rows`."""
    for loop in LOOPS.values():
        setattr(loop, "fitted", image_set)

    class Quick(CodeRevival):
        """Codes die, and are revived, within a few steps."""

        def __init__(self, quantizer):
            super().__init__(quantizer, decay=0.1)

        def revive(self, features):
            rows.setdefault("revived", []).append(super().revive(features))

    setattr(train_tokenizer, "CodeRevival", Quick)
    # The 23 images fill three files.
    setattr(train_var, "token_set", functools.partial(token_set, shard=10))
    log = run_folder.Run.log

    def keep(self, step, images, values):
        rows.setdefault(self.path.parent.name, {})[str(step)] = values
        log(self, step, images, values)

    setattr(run_folder.Run, "log", keep)


def models(folder):
    """The two networks that the runs start from."""
    torch.manual_seed(0)
    MultiScaleVQVAE(SHAPE).save_pretrained(folder / "tok")
    torch.manual_seed(3)
    Classifier(ClassifierConfig(image_channels=1, widths=(4, 8))).save_pretrained(folder / "net")


def drawing_models(folder):
    """pair/var and pair/tokenizer to draw with, and an evaluator of three classes."""
    make_var(ScaleSchedule((1, 2)), vocab_size=24).save_pretrained(folder / "pair" / "var")
    make_tokenizer(sizes=(1, 2), vocab_size=24).save_pretrained(folder / "pair" / "tokenizer")
    torch.manual_seed(0)
    config = ClassifierConfig(image_channels=1, num_classes=3, widths=(2, 3))
    Classifier(config).save_pretrained(folder / "evaluator")


def tensors(path):
    """What a safetensors file says; the order of its header differs from process to process."""
    with safe_open(path, "pt") as file:
        told = sorted((file.metadata() or {}).items())
        held = {k: file.get_tensor(k) for k in sorted(file.keys())}
    return [told, [(k, str(t.dtype), t.shape, t.numpy().tobytes()) for k, t in held.items()]]


def on_two_processes(script, *args):
    """Lets torchrun start a script twice; returns what both printed."""
    tests = Path(__file__).parent
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = f"{os.environ['PYTHONPATH']}:{tests.parent}:{tests}"  # tests/offline comes first
    env = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, *map(str, (script, *args))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def configs(folder):
    """By kind of model: every random number and every statistic of a batch is in play."""
    common = dict(
        data="toy", images=STEPS * 4, batch_size=4, log_every=1, checkpoint_every=100, held_out=7,
        ema=0.9,
    )  # fmt: skip
    # In larger or more adversarial steps rounding grows: Adam blows up what it leaves of gradients
    # that are zero.
    small = dict(lr=1e-4, adversarial=0.5, adversarial_start=0.6, revive_every=4, decay=0.2)
    return {
        "tokenizer": TokenizerTraining(
            model=SHAPE, perceptual_network=str(folder / "net"), **small, **common
        ),
        "var": VARTraining(
            tokenizer=str(folder / "tok"),
            accumulate=2,
            lr=3e-4,
            model=VARConfig(
                depth=2, width=16, heads=2, drop_path=0.3, label_dropout=0.3, init_gamma=1.0
            ),
            **common,
        ),
    }


def stopped_run(kind, config, out, step, here=True):
    """Trains until SIGTERM comes in `step` (counted from 0), to this process or to another."""
    loop = LOOPS[kind]
    source = {"tokenizer": "batches", "var": "token_batches"}[kind]
    make = getattr(loop, source)

    def stream(*args, **options):
        for number, batch in zip(itertools.count(), make(*args, **options)):
            if number == step and here:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    setattr(loop, source, stream)
    try:
        loop.train(config, out)
    except SystemExit as stop:
        return stop.code
    finally:
        setattr(loop, source, make)
    return 0
