"""Models and runs as users bring them; see user_inputs.py."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import make_tokenizer, make_var, random_images
from torch import nn
from user_pictures import Case, files

from varmini import VAR, MultiScaleVQVAE, quicken, sample
from varmini.runtime.tables import read_rows
from varmini.training import train_tokenizer
from varmini.training.configs import TokenizerTraining


def brought(change: Callable[[VAR, MultiScaleVQVAE], tuple]) -> Callable[[Path], tuple]:
    """A tiny VAR and its tokenizer, as `change` makes them."""
    return lambda folder: change(make_var(make_tokenizer().schedule), make_tokenizer())


def drawn(models: tuple) -> str:
    """How the pictures of two models compare with those of fresh ones."""
    fresh = make_var(make_tokenizer().schedule), make_tokenizer()
    _, tokens = sample(*fresh, [0, 1], seed=0, return_tokens=True)
    images, found = sample(*models, [0, 1], seed=0, return_tokens=True)
    same = all(a.equal(b) for a, b in zip(found, tokens))
    return f"{'the same' if same else 'other'} tokens, pictures in {images.dtype}"


def called(make: Callable[[nn.Module, tuple], Callable]) -> Callable[[Path], str]:
    """Whether a VAR that went through `make` gives the same logits."""

    def run(folder: Path) -> str:
        var, tok = make_var(make_tokenizer().schedule), make_tokenizer()
        inputs = torch.tensor([0, 1]), tok.quantizer.teacher_inputs(tok.encode(random_images(2)))
        with torch.no_grad():
            same = torch.allclose(make(var, inputs)(*inputs), var(*inputs), atol=1e-5)
        return "the same logits" if same else "other logits"

    return run


def reloaded(var: VAR, tok: MultiScaleVQVAE) -> tuple:
    with tempfile.TemporaryDirectory() as folder:
        names = [model.save_pretrained(Path(folder) / model.kind) for model in (var, tok)]
        return VAR.from_pretrained(names[0]), MultiScaleVQVAE.from_pretrained(names[1])


def run_on(again: bool = True, pictures: int = 0, **changes: Any) -> Callable[[Path], Path]:
    """A run of two steps on a folder of pictures, started once more with other settings."""

    def make(folder: Path) -> Path:
        names = [f"{part}/a/{i}.png" for part in ("train", "test") for i in range(6)]
        config = TokenizerTraining(
            data=str(files(*names)(folder)), model=make_tokenizer().config, images=8, batch_size=4,
            perceptual_network="", held_out=2, log_every=1,
        )  # fmt: skip
        out = train_tokenizer.train(config, folder / "run")
        if pictures:
            files(*(f"train/a/{i}.png" for i in range(6, 6 + pictures)))(folder)
        return train_tokenizer.train(replace(config, **changes), out, resume=again)

    return make


def trained(out: Path) -> str:
    return f"{list(read_rows(out / 'log.csv'))[-1]['images']} images seen"


CASES = [
    Case("model: copied", brought(lambda v, t: copy.deepcopy((v, t))), "the same tokens", drawn),
    Case("model: saved and loaded", brought(reloaded), "the same tokens", drawn),
    Case("model: frozen", brought(lambda v, t: (v.requires_grad_(False), t)),
         "the same tokens", drawn),
    Case("model: quickened", brought(lambda v, t: (quicken(v), quicken(t))),
         "the same tokens", drawn),
    Case("model: compiled", brought(lambda v, t: (torch.compile(v, backend="eager"), t)),
         "the same tokens", drawn),
    Case("model: compiled, teacher forcing", called(
        lambda v, _: torch.compile(v, backend="eager")), "the same logits", str),
    Case("model: cast to bfloat16", brought(lambda v, t: (v.bfloat16(), t.bfloat16())),
         "torch.bfloat16", drawn),
    Case("model: cast to float16", brought(lambda v, t: (v.half(), t.half())),
         "torch.float16", drawn),
    Case("model: cast to float64", brought(lambda v, t: (v.double(), t.double())),
         "torch.float64", drawn),
    Case("model: one of the two cast", brought(lambda v, t: (v.bfloat16(), t)),
         "torch.float32", drawn),
    Case("model: exported", called(lambda v, x: torch.export.export(v, x).module()),
         "the same logits", str),
    Case("model: traced", called(torch.jit.trace), "the same logits", str),
    Case("model: the exported one drawn with", brought(
        lambda v, t: (torch.export.export(v, (torch.tensor([0]), torch.zeros(1, 20, 4))).module(),
                      t)), "expected a VAR", drawn),
    Case("model: wrapped in DataParallel", brought(lambda v, t: (nn.DataParallel(v), t)),
         "give its .module", drawn),
    Case("model: averaged by torch", brought(
        lambda v, t: (torch.optim.swa_utils.AveragedModel(v), t)), "give its .module", drawn),
    Case("model: in training mode", brought(lambda v, t: (v.train(), t)), ".eval()", drawn),
    Case("model: the two swapped", brought(lambda v, t: (t, v)), "expected a VAR", drawn),
    Case("model: a name for a model", brought(lambda v, t: ("cifar10", t)), "expected a VAR",
         drawn),
    Case("model: another tokenizer", brought(lambda v, t: (v, make_tokenizer(sizes=(1, 4)))),
         "load a pair trained together", drawn),
    # Runs.
    Case("run: resumed for longer", run_on(images=16), "16 images", trained),
    Case("run: resumed with other intervals", run_on(images=16, log_every=2, checkpoint_every=1),
         "16 images", trained),
    Case("run: resumed for less", run_on(images=4), "images", trained),
    Case("run: resumed after pictures were added", run_on(images=16, pictures=2), "images",
         trained),
    Case("run: resumed with another rate", run_on(lr=0.5), "lr=0.001, not 0.5", trained),
    Case("run: resumed in other batches", run_on(batch_size=2), "batch_size=4, not 2", trained),
    Case("run: resumed with another model", run_on(model=make_tokenizer(vocab_size=9).config),
         "model.vocab_size=12, not 9", trained),
    Case("run: started again", run_on(again=False), "already holds a run", trained),
]  # fmt: skip
