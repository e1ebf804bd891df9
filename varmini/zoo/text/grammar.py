"""Captions of scenes: two garments side by side, and a small grammar that tells them.

    caption = "a L left of a R" | "a R right of a L" | "on the left a L on the right a R"
            | "on the right a R on the left a L" | "two Ls" | "a pair of Ls"

The last two are for a garment beside one of its own class. `captions` and `parse` are inverse to
each other: parse(c) == (left, right) for every c in captions(left, right).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...model.checks import is_integer, stray

NAMES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
         "boot")  # fmt: skip
"""The classes of Fashion-MNIST, one word each."""
PLURALS = tuple(name + ("es" if name.endswith("s") else "s") for name in NAMES)
FORMS = ("a {left} left of a {right}", "a {right} right of a {left}",
         "on the left a {left} on the right a {right}",
         "on the right a {right} on the left a {left}")  # fmt: skip
"""What can be said of every scene."""
SAME = ("two {many}", "a pair of {many}")
"""What can also be said of two garments of a class."""
END = "<end>"
"""Ends a caption and fills it up; the empty caption is this alone."""
EMPTY = 0
"""The number of `END`: LongTensor (T,) of zeros is the empty caption."""
WORDS = (END, "a", "two", "pair", "of", "on", "the", "left", "right", *NAMES, *PLURALS)
"""The vocabulary; a word's number is its place here."""
LENGTH = 1 + max(len(form.split()) for form in FORMS)
"""T, words of the longest caption and its end."""
NUMBER = {word: i for i, word in enumerate(WORDS)}


def captions(left: int, right: int) -> list[str]:
    """Everything that the grammar says of a scene: four captions, of two alike garments six.

    left, right: classes in [0, 10).
    """
    words = {"left": NAMES[left], "right": NAMES[right], "many": PLURALS[left]}
    return [form.format(**words) for form in FORMS + SAME * (left == right)]


MEANING = {caption: (left, right) for left in range(10) for right in range(10)
           for caption in captions(left, right)}  # fmt: skip
"""Every caption of the grammar, and the classes (left, right) that it tells."""


def parse(caption: str) -> tuple[int, int]:
    """The classes (left, right) that a caption tells; capitals and spaces do not matter.

    Raises:
        ValueError: on an unknown word, or words in an order that the grammar does not have.
    """
    words = " ".join(_words(caption))
    if words not in MEANING:
        forms = "; ".join(form.format(left="coat", right="bag", many="coats")
                          for form in FORMS + SAME)  # fmt: skip
        raise ValueError(f"caption {caption!r} is no sentence of the grammar, expected one like: "
                         f"{forms}")  # fmt: skip
    return MEANING[words]


def encode(texts: Sequence[str]) -> Tensor:
    """Captions as numbers of words, ended and filled up with `EMPTY`: LongTensor (B, T).

    The words need make no sentence; "" is the empty caption.

    Raises:
        ValueError: on an unknown word, or more than T - 1 words.
    """
    numbers = torch.full((len(texts), LENGTH), EMPTY)
    for row, text in zip(numbers, texts):
        words = _words(text)
        if len(words) >= LENGTH:
            raise ValueError(f"caption {text!r} has {len(words)} words, expected at most "
                             f"{LENGTH - 1}")  # fmt: skip
        row[: len(words)] = torch.tensor([NUMBER[word] for word in words])
    return numbers


def decode(numbers: Tensor) -> list[str]:
    """The inverse of `encode`: LongTensor (B, T) -> captions without their end."""
    return [" ".join(WORDS[n] for n in row if n != EMPTY) for row in numbers.tolist()]


def as_captions(given: str | Sequence[str] | Tensor) -> Tensor:
    """What a generator is asked for, as a LongTensor (B, T): one caption, several, or numbers.

    Raises:
        ValueError: as `encode`, and on a tensor of another shape, type or range.
    """
    if not isinstance(given, Tensor):
        return encode([given] if isinstance(given, str) else list(given))
    if given.ndim != 2 or given.shape[1] != LENGTH or not is_integer(given):
        raise ValueError(f"captions are {given.dtype} of shape {tuple(given.shape)}, expected "
                         f"texts or integers of shape (B, {LENGTH})")  # fmt: skip
    if (wrong := stray(given, 0, len(WORDS) - 1)) is not None:
        raise ValueError(f"word number {wrong} is unknown, expected 0 to {len(WORDS) - 1}")
    return given.long()


def _words(caption: str) -> list[str]:
    words = caption.lower().split()
    for word in words:
        if word not in NUMBER or word == END:
            raise ValueError(f"unknown word {word!r} in the caption {caption!r}, expected words "
                             f"of: {', '.join(WORDS[1:])}")  # fmt: skip
    return words
