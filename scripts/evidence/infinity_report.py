"""What results/README.md says of bits, self-correction and repair, from their CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from wording import NOT_MEASURED, provenance, table, with_error

from varmini.evaluation.statistics import interval
from varmini.experiments.zero_shot.self_correction import verdicts
from varmini.runtime.tables import Row, rows_of
from varmini.zoo.generators.infinity import head_parameters

WIDTH = 128
"""Of the transformer below the heads."""
BY_FORMULA = (32, 64)
"""Bits at which heads are counted, not trained."""


def infinity(folder: Path, figures: Path) -> str:
    """Heads of bits and of codes over d, and the repair experiment."""
    folder, text = folder / "comparison", "## Infinity: bits and self-correction\n\n"
    parts = (
        ("bits", heads, "python scripts/evidence/bits.py"),
        ("self_correction", repair, "python scripts/evidence/self_correction.py"),
    )
    rows: list[Row] = []
    for name, write, command in parts:
        found = rows_of(folder / f"{name}.csv")
        text += write(found) if found else f"{name}: {NOT_MEASURED}: run `{command}`\n\n"
        rows += found
    return text + (provenance(rows) if rows else "")


def mean_of(values: Sequence[float], digits: int) -> str:
    """The mean, and its 95 % interval over seeds where there are at least three."""
    text = f"{fmean(values):.{digits}f}"
    if len(values) < 3:
        return text
    return text + " ({:.{n}f} to {:.{n}f})".format(*interval(values), n=digits)


def heads(rows: Sequence[Row]) -> str:
    """Cross-entropy and quality of both heads over d."""
    cells = []
    for bits, batch, head in dict.fromkeys((r["bits"], r["batch"], r["head"]) for r in rows):
        of = [r for r in rows if (r["bits"], r["batch"], r["head"]) == (bits, batch, head)]
        cells.append([str(bits), head, f"{of[0]['images']:,}", f"{of[0]['head_parameters']:,}",
                      f"{of[0]['parameters'] / 1e6:.2f} M", str(len(of)),
                      *(mean_of([r[key] for r in of], digits) for key, digits in
                        (("nats_a_token", 3), ("bits_an_image", 1), ("frechet_plain", 2),
                         ("frechet_guided", 2))),
                      mean_of([100 * r["accuracy_guided"] for r in of], 1),
                      f"{of[0]['frechet_rebuilt']:.2f}"])  # fmt: skip
    for bits in BY_FORMULA:
        for head, group in (("bits", 1), ("codes", bits)):
            count = head_parameters(WIDTH, bits, group)
            told = f"{count:,}" if count < 1e9 else f"{count:.2g}"
            cells.append([str(bits), head, "by formula", told, *[""] * 8])
    names = ("d", "head", "images seen", "parameters of the head", "of all", "seeds",
             "nats a token", "bits an image", "Frechet, no guidance", "Frechet, guidance 2",
             "own class, guidance 2, %", "Frechet of the tokenizer alone")  # fmt: skip
    return table(names, cells) + (
        "\nHeld-out cross-entropy of whole tokens, the same unit for both heads; of different d "
        "it is that of different tokens. One tokenizer a d, one seed; no filter, for a nucleus of "
        "codes is no nucleus of bits; guidance was not tuned. In brackets 95 % intervals over "
        "seeds; fewer than five a side decide nothing.\n\n"
    )


def repair(rows: Sequence[Row]) -> str:
    """Gain of "seen" over its controls, without and with self-correction, in both errors."""
    cells = []
    for r in [r | {"in": at} for at in ("features", "pixels") for r in verdicts(rows, at)]:
        cells.append([r["in"], str(r["scale"]), f"{100 * r['share']:.0f} %", r["control"],
                      *(f"{r[f'gain_{m}']:+.1f} ({r[f'low_{m}']:+.1f} to {r[f'high_{m}']:+.1f}), "
                        f"p = {r[f'p_{m}']:.2g}" for m in ("infinity", "infinity-sc")),
                      f"{r['more']:+.1f} ({r['more_low']:+.1f} to {r['more_high']:+.1f}), "
                      f"p = {r['p_more']:.2g}"])  # fmt: skip
    oracle = [r["repair_oracle_features"] for r in rows]
    seeds = len({r["seed"] for r in rows})
    names = ("error in", "map", "bits flipped", "control", "gain without self-correction, %",
             "with self-correction, %", "difference")  # fmt: skip
    return (
        "The repair experiment: bits of one map are flipped, the model draws the later maps. Gain: "
        "by how many per cent the error is smaller than that of later maps drawn "
        "without sight of the flips, on the same start; above 0 is mending. Controls: unseen keeps "
        "the bits that were not flipped, redrawn draws the map anew "
        "(varmini/experiments/zero_shot/self_correction.py).\n\n"
        + table(names, cells)
        + f"\n{rows[0]['n']} test images, {seeds} seeds; 95 % intervals over seeds, p-values of "
        "all tests of one error adjusted (Holm). The tokenizer, which knows the picture, mends "
        f"{100 * min(oracle):.0f} to {100 * max(oracle):.0f} % of the damage in features.\n\n"
    )


def of_codes(rows: Sequence[Row]) -> str:
    """The repair experiment of VAR's codes: a share of one map is corrupted."""
    cells = []
    for r in rows:
        gain = (100 * r[f"gain_features{end}"] / r["features_unseen"]
                for end in ("", "_low", "_high"))  # fmt: skip
        unfair = 100 * (1 - r["features_corrected"] / r["features_ignored"])
        cells.append([str(r["scale"]), f"{100 * r['changed']:.0f} %",
                      "{:+.1f} ({:+.1f} to {:+.1f})".format(*gain), f"{unfair:+.1f}",
                      with_error([r], "repair_oracle_features", 0, 100),
                      *(with_error([r], f"accuracy_{arm}", 1, 100)
                        for arm in ("clean", "unseen", "corrected"))])  # fmt: skip
    names = ("map", "corrupted", "gain, %", "over the unfair control, %", "tokenizer mends, %",
             "own class: clean, %", "unseen, %", "seen, %")  # fmt: skip
    return (
        "Error repair: a share of one map is corrupted, the model draws the later maps. Gain: by "
        "how many per cent their error in features is smaller than that of maps drawn without "
        "sight of the corruption, on the same start (95 % interval over images); above 0 is "
        "mending. Beside it the gain over maps drawn after the true map, which know more than a "
        "corrupted start holds, and the share of the damage that the tokenizer mends, which knows "
        "the picture.\n\n" + table(names, cells) + "\n"
    )
