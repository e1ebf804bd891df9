"""What the demo's page says about its pictures: true of any schedule, written for newcomers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...model.tokenizer import MultiScaleVQVAE

TITLE = "Drawing pictures map by map"
SUBTITLE = (
    "A tour of Visual AutoRegressive modeling (VAR), also called next-scale prediction, with two "
    "models that this computer trained from nothing, beside two that were trained before."
)
FOOTER = (
    "Method: Tian et al., Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale "
    "Prediction, NeurIPS 2024, arXiv:2404.02905. Pictures: Fashion-MNIST (Xiao et al. 2017) and "
    "CIFAR-10 (Krizhevsky 2009). Numbers were measured by this run (demo.json has them all); the "
    "curves of the CIFAR-10 models come from their own training logs."
)

CAPTIONS = {
    "mask": (
        "Who may look at whom",
        "In training, the transformer predicts all maps of a picture in one pass, and this mask "
        "keeps it honest: a token (a row) may look at its own map and at coarser ones (coloured), "
        "never at finer ones (grey). Sampling needs no mask, because the finer maps do not exist "
        "yet.",
    ),
    "samples": (
        "Ask for a class, get a picture",
        "Each column shows {rows} of one class. The transformer was told the class and nothing "
        "else; every token was drawn at random from the probabilities it predicted (guidance "
        "{guidance}, seed {seed}), and nothing was picked by hand.",
    ),
    "growing": (
        "A picture grows, map by map",
        "Three of these samples while they are being drawn. The upper line shows the token map "
        "just predicted, all of its tokens at once; below it stands the picture decoded from all "
        "maps so far. Coarse maps fix rough shape and tone, finer maps the detail.",
    ),
    "scales": (
        "Reconstructions from one map, two maps, and so on",
        "Here the tokenizer works alone. Real test pictures (last column) are turned into {scales} "
        "token maps, then decoded from the first map only, from the first two, and so on. Each map "
        "corrects what the coarser ones left over.",
    ),
    "tokens": (
        "The same pictures as the transformer sees them",
        "Every square is one token: the number of one of {vocab} codes. Similar code vectors have "
        "similar colours, and small maps show the numbers. The maps are no thumbnails of the "
        "picture: each holds only what is still missing from the coarser ones.",
    ),
    "usage": (
        "How much of the codebook is in use",
        "A code that no token ever takes is wasted, and people who train such tokenizers report "
        "coarse maps that give up most of theirs. Each bar counts the codes seen in {test} test "
        "pictures as a share of what the map could show: a 1×1 map has one token a picture, so it "
        "cannot show more codes than there are pictures.",
    ),
    "tokenizer-curves": (
        "How the tokenizer learned",
        "Left: the loss that training lowered (red) and its two parts. Middle: how close "
        "reconstructions of pictures outside the training set come to the originals; 6 dB more "
        "halve the typical error. Right: the codes that each map used lately, as a share of what "
        "it could show, coarse maps light and fine maps dark.",
    ),
    "var-curves": (
        "How the transformer learned",
        "Left and middle: how surprised the transformer is by the true token, in nats; guessing "
        "blindly among {vocab} codes would cost {blind:.2f}. Pale lines and the middle are "
        "pictures outside the training set, seen with weights averaged over recent steps, so they "
        "lag at first. Right: how often the first guess is right. It cannot come near 100 %: many "
        "pictures fit one class, and the tokens decide which one is drawn.",
    ),
}
"""Heading and text of every picture; names in braces are filled in by the demo."""


def shape(tok: MultiScaleVQVAE) -> str:
    """A sentence on the tokens of one picture."""
    names = [f"{h}×{w}" for h, w in tok.schedule.grids]
    return (
        f"A picture of {tok.image_size[0]}×{tok.image_size[1]} pixels becomes "
        f"{tok.schedule.num_tokens} tokens in {len(names)} maps: {', '.join(names)}."
    )


def how(tok: MultiScaleVQVAE) -> str:
    """The method in one paragraph."""
    return (
        "VAR draws as a painter does: the whole in broad strokes first, then ever finer. Stage "
        "one, the tokenizer, learns to turn a picture into a few maps of tokens and back; a token "
        "is the number of one entry in a learned codebook. Stage two, the transformer, learns to "
        f"predict each map from all coarser ones. {shape(tok)} All tokens of a map are predicted "
        f"at once, so a picture takes {len(tok.schedule)} steps; a model that writes the last map "
        f"alone, token by token, would take {tok.schedule.tokens_per_scale[-1]}."
    )


def fashion(facts: Mapping[str, Any]) -> str:
    """What was trained just now."""
    tokenizer, var = (f"{n / 1e6:.1f}" for n in facts["fashion"]["parameters"].values())
    return (
        "Grey pictures of clothes in ten classes, 1,000 a class for training. This run trained "
        f"both stages from scratch: the tokenizer ({tokenizer} million weights) in "
        f"{duration(facts['tokenizer']['seconds'])}, the transformer ({var} million) in "
        f"{duration(facts['var']['seconds'])}. Reconstructions of "
        f"{facts['fashion']['test_pictures']:,} test pictures reach a PSNR of "
        f"{facts['fashion']['psnr']:.1f} dB."
    )


def cifar10(tok: MultiScaleVQVAE, numbers: Mapping[str, Any]) -> str:
    """What the shipped models are."""
    sizes = [f"{n / 1e6:.1f}" for n in numbers["parameters"].values()]
    return (
        "The same code, trained for longer on the 50,000 colour photographs of CIFAR-10's training "
        f"set: a tokenizer of {sizes[0]} and a transformer of {sizes[1]} million weights that come "
        f"with the repository. {shape(tok)} Reconstructions of {numbers['test_pictures']:,} test "
        f"pictures reach a PSNR of {numbers['psnr']:.1f} dB."
    )


def caption(name: str, **values: object) -> tuple[str, str]:
    """Heading and text of a picture, filled in."""
    heading, text = CAPTIONS[name]
    return heading, text.format(**values)


def tiles(facts: Mapping[str, Any], tok: MultiScaleVQVAE) -> list[tuple[str, str]]:
    """The numbers at the top of the page."""
    return [
        ("Tokenizer trained in", duration(facts["tokenizer"]["seconds"])),
        ("Transformer trained in", duration(facts["var"]["seconds"])),
        ("A picture is", f"{tok.schedule.num_tokens} tokens"),
        ("Steps a picture", str(len(tok.schedule))),
        ("Drawn in a second", f"{facts['fashion']['samples_per_second']:,.0f} pictures"),
        ("Peak memory", memory(facts)),
    ]


def table(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The run's account: costs, final losses, machine, versions."""
    rows = [("Whole demo", duration(facts["total_seconds"]))]
    for name, stage in (("Tokenizer", facts["tokenizer"]), ("Transformer", facts["var"])):
        cost = f"{duration(stage['seconds'])} for {stage['images']:,} pictures"
        rows.append((f"{name} training", f"{cost}, {stage['images_per_second']:,.0f} a second"))
    end = facts["tokenizer"]["final"]
    rows.append(("Tokenizer's end", f"loss {end['loss']:.4f}, held-out PSNR {end['psnr']:.2f} dB"))
    end = facts["var"]["final"]
    losses = f"loss {end['loss']:.3f}, held out {end['val_loss']:.3f}"
    losses += f"; last map {end['loss_last']:.3f}, held out {end['val_loss_last']:.3f}"
    rows.append(("Transformer's end", f"{losses} (nats a token)"))
    rows.append(("Peak memory", memory(facts)))
    for key in ("hardware", "threads", "precision", "torch", "python", "seed", "commit", "date"):
        rows.append((key.capitalize(), str(facts[key])))
    return [*rows, ("Command", facts["command"])]


def code(folder: str, label: int, name: str) -> str:
    """Python that goes on with the trained models."""
    return (
        "from varmini import VAR, MultiScaleVQVAE, sample\n\n"
        f'tok = MultiScaleVQVAE.from_pretrained("{folder}/tokenizer")\n'
        f'var = VAR.from_pretrained("{folder}/var")\n'
        f"images = sample(var, tok, [{label}] * 8, seed=1)  # eight times {name}, in [-1, 1]"
    )


def duration(seconds: float) -> str:
    """Seconds as "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def memory(facts: Mapping[str, Any]) -> str:
    """The peak memory in GB."""
    peak = facts["peak_memory_mb"]
    return "unknown" if peak is None else f"{peak / 1000:.1f} GB"


def blind(vocab_size: int) -> float:
    """Cross-entropy of guessing evenly among the codes, in nats."""
    return math.log(vocab_size)
