"""Builds the page that runs the live bed in a browser: a static folder from web/ and the models.

    python scripts/release/export_page.py --out out/page
    python scripts/release/export_page.py --out DIR --precision float32 --fixtures 50

Weights go into one file, model.bin, and what they are into model.json. A transformer stored as
bfloat16 stays so, which loses nothing; encoder and decoder are rounded to --precision. With
--fixtures, DIR/fixtures.json holds what Python draws, for web/test/parity.test.js to compare.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.image import imread, imsave
from torch import Tensor

from varmini import VAR, MultiScaleVQVAE
from varmini.data import load_images
from varmini.experiments.scaling import fits
from varmini.model.sampler import Noise, forced, generate, sample
from varmini.runtime.files import write_atomic
from varmini.runtime.tables import read_rows

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
PAGE = ("index.html", "style.css", "texts.json", "src")
"""What of web/ the page consists of."""
SEEDS = {0: 11, 3: 6, 8: 7, 9: 2}
"""The precomputed examples: class -> seed, picked by eye among seeds 0 to 13."""
EMBEDDED_PICTURES = 10
NEIGHBOURS, BOOTSTRAP, TILE = 6, 2000, 32
SWEEP = ROOT / "results" / "scaling"
GUIDANCE, TOP_K, TOP_P = 1.5, 900, 0.96


def grids_as_matrices(tok: MultiScaleVQVAE) -> dict[str, Tensor]:
    """Up- and downsampling between the grids, which are linear, as matrices (to, from)."""
    last, quantizer = tok.schedule.grids[-1], tok.quantizer
    tensors = {}
    for k, (h, w) in enumerate(tok.schedule.grids[:-1]):
        small, large = torch.eye(h * w), torch.eye(last[0] * last[1])
        up = F.interpolate(small.view(-1, 1, h, w), size=last, mode="bicubic")
        down = quantizer.down(large.view(-1, 1, *last), k)
        tensors[f"up.{k}"], tensors[f"down.{k}"] = up.flatten(1).T, down.flatten(1).T
    return tensors


def colours(codebook: Tensor) -> list[str]:
    """A colour a code: its ranks along the first three principal axes as red, green and blue."""
    centred = codebook - codebook.mean(0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:3]
    axes = axes * axes.sum(1, keepdim=True).sign()  # an axis has no sign of its own
    ranks = (centred @ axes.T).argsort(0).argsort(0) / (len(codebook) - 1)
    return ["#" + bytes(rgb).hex() for rgb in (120 + 135 * ranks).round().int().tolist()]


def stored(name: str, tensor: Tensor, precision: str) -> tuple[str, bytes]:
    """A tensor's type in model.bin and its bytes."""
    if name.startswith("var.") and torch.equal(tensor.bfloat16().float(), tensor):
        return "bfloat16", tensor.bfloat16().view(torch.int16).numpy().tobytes()
    # What the transformer reads stays exact: one token that flips changes all that follow it.
    if not name.startswith("tok.") or name.startswith("tok.quantizer.") or tensor.ndim == 1:
        precision = "float32"
    return precision, tensor.to(getattr(torch, precision)).contiguous().numpy().tobytes()


def write_model(out: Path, tok: MultiScaleVQVAE, var: VAR, precision: str) -> None:
    """model.bin and model.json."""
    tensors = {f"tok.{name}": t for name, t in tok.state_dict().items()}
    tensors |= {f"var.{name}": t.float() for name, t in var.state_dict().items()}
    tensors |= grids_as_matrices(tok)
    table, parts, at = {}, [], 0
    for name, tensor in tensors.items():
        kind, data = stored(name, tensor.detach(), precision)
        table[name] = {"type": kind, "shape": list(tensor.shape), "offset": at}
        data += bytes(-len(data) % 4)  # a float32 array in JavaScript begins at a multiple of four
        parts.append(data)
        at += len(data)
    data = b"".join(parts)
    tokenizer, transformer = tok.config, var.config
    about = {
        "grids": tok.schedule.grids,
        "vocab_size": tokenizer.vocab_size,
        "code_channels": tokenizer.code_channels,
        "patch": tokenizer.patch,
        "norm_groups": tokenizer.norm_groups,
        "phi_strength": tokenizer.phi_strength,
        "phi_of_scale": [tok.quantizer.phi_index(k) for k in range(len(tok.schedule))],
        "width": transformer.width,
        "depth": transformer.depth,
        "heads": transformer.heads,
        "num_classes": transformer.num_classes,
        "colours": colours(tok.quantizer.codebook.weight),
        "bytes": len(data),
        "crc32": zlib.crc32(data),
        "tensors": table,
    }
    write_atomic(out / "model.bin", data)
    write_json(out / "model.json", about)


def write_json(path: Path, content: object) -> None:
    write_atomic(path, json.dumps(content, separators=(",", ":")).encode())


def grey(images: Tensor) -> str:
    """Images in [-1, 1] as bytes of grey levels, in base64."""
    levels = (images.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    return base64.b64encode(levels.contiguous().numpy().tobytes()).decode()


def flat(tokens: list[Tensor], i: int) -> list[list[int]]:
    return [map_[i].flatten().tolist() for map_ in tokens]


def write_examples(out: Path, tok: MultiScaleVQVAE, var: VAR) -> None:
    """examples.json: drawings to show before the model has loaded, and pictures to take apart."""
    drawings = []
    for label, seed in SEEDS.items():
        options = {"cfg": GUIDANCE, "top_k": TOP_K, "top_p": TOP_P, "seed": seed}
        _, tokens = sample(var, tok, [label], return_tokens=True, **options)
        steps = [tok.decode(tokens, num_scales=k + 1) for k in range(len(tokens))]
        drawings.append(
            {"label": label, "seed": seed, "tokens": flat(tokens, 0)}
            | {"images": grey(torch.cat(steps))}
        )
    images, labels = held_out(EMBEDDED_PICTURES)
    codebook = tok.quantizer.codebook.weight
    near = torch.cdist(codebook, codebook).argsort(1)[:, 1 : NEIGHBOURS + 1]
    about = {
        "settings": {"cfg": GUIDANCE, "topK": TOP_K, "topP": TOP_P},
        "drawings": drawings,
        "pictures": {"labels": labels, "images": grey(images)},
        "neighbours": near.tolist(),
    }
    write_json(out / "examples.json", about)
    # What the decoder makes of each code as the 1x1 map, at half size, 32 a row.
    f_hats = tok.quantizer.contribution(0, codebook[:, :, None, None])
    small = F.avg_pool2d(tok.decode_features(f_hats), 2)[:, 0].clamp(-1, 1)
    sheet = small.unflatten(0, (-1, 32)).transpose(1, 2).flatten(2).flatten(0, 1)
    write_png(out / "codes.png", (sheet[..., None].expand(-1, -1, 3) / 2 + 0.5).numpy())


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Pixels (H, W, 3) in [0, 1]."""
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    write_atomic(path, file.getvalue())


def write_scaling(out: Path) -> None:
    """scaling.json, the committed sweep with its laws, and samples.png, what its runs drew."""
    rows = read_rows(SWEEP / "sweep.csv")
    kept = ("depth", "n", "seed", "images", "loss", "error")
    points = [{name: row[name] for name in kept} | {"c": row["flops"]} for row in rows]
    found = {"n": {}, "c": {}}
    for fit in fits.laws(rows):
        if (measure := fit["measure"]) not in ("loss", "error"):
            continue
        if fit["over"] == "n":
            ends = fits.ends_of(rows)
            x, y = (np.array([row[name] for row in ends], float) for name in ("n", measure))
        else:
            x, y = fits.frontier(rows, measure)
            x = x * fits.PFLOP
        interval = {name: fit[name] for name in ("b", "b_low", "b_high")}
        found[fit["over"]][measure] = interval | {"band": band(x, y)}
    depths = sorted({row["depth"] for row in rows})
    tiles = tiles_of(imread(SWEEP / "pictures.png")[..., :3], len(depths))
    write_png(out / "samples.png", tiles)
    samples = {"depths": depths, "columns": tiles.shape[1] // TILE}
    write_json(out / "scaling.json", {"rows": points, "laws": found, "samples": samples})


def band(x: np.ndarray, y: np.ndarray) -> dict[str, list[float]]:
    """The law from the smallest to ten times the largest x, and its 95 % interval at each of them.

    The bootstrap is that of `fits.bootstrap`: sizes are drawn again, and runs within a size.
    """
    at = np.geomspace(x.min(), 10 * x.max(), 60)
    random, sizes, curves = np.random.default_rng(0), np.unique(x), []
    while len(curves) < BOOTSTRAP:
        groups = [np.flatnonzero(x == size) for size in random.choice(sizes, len(sizes))]
        picks = np.concatenate([random.choice(group, len(group)) for group in groups])
        if len(np.unique(x[picks])) > 1:
            curves.append(fits.fit_power_law(x[picks], y[picks])(at))
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    law = fits.fit_power_law(x, y)(at)
    return {name: v.tolist() for name, v in zip(("x", "y", "low", "high"), (at, law, low, high))}


def tiles_of(sheet: np.ndarray, rows: int) -> np.ndarray:
    """A figure (H, W, 3) -> its pictures alone, at their own size: (rows TILE, n TILE, 3)."""

    def runs(line: np.ndarray) -> list[np.ndarray]:
        edges = np.flatnonzero(np.diff(np.pad(line.astype(int), 1)))
        return [(a, b) for a, b in zip(edges[::2], edges[1::2]) if b - a > TILE]

    dark = (sheet < 0.99).any(2)
    down = runs(dark.mean(1) > 0.5)
    across = runs(dark[np.concatenate([np.arange(a, b) for a, b in down])].mean(0) > 0.2)
    if len(down) != rows:
        raise ValueError(f"{SWEEP / 'pictures.png'} shows {len(down)} rows of pictures, expected "
                         f"{rows}, one a size of sweep.csv: make both again")  # fmt: skip
    middle = (np.arange(TILE) + 0.5) / TILE
    at = (np.concatenate([a + (b - a) * middle for a, b in r]) for r in (down, across))
    y, x = (positions.astype(int) for positions in at)
    return sheet[y][:, x]


def held_out(count: int) -> tuple[Tensor, list[int]]:
    """The first so many held-out pictures, in [-1, 1], and their classes."""
    pictures = load_images("fashion-subset", "test", limit=count)
    images, labels = zip(*(pictures[i] for i in range(count)))
    return torch.stack([torch.as_tensor(i) for i in images]), [int(x) for x in labels]


def write_fixtures(out: Path, tok: MultiScaleVQVAE, var: VAR, count: int) -> None:
    """fixtures.json: what the plain form draws in float32, one picture a seed, and rebuilds."""
    draws = []
    for seed in range(count):
        label = seed % (var.config.num_classes + 1)
        cfg = (0.0, 1.5, 3.0)[seed % 3]
        case = {"seed": seed, "label": label, "cfg": cfg}
        images, greedy = sample(var, tok, [label], cfg=cfg, top_k=1, seed=seed, return_tokens=True)
        case |= {"greedy": flat(greedy, 0), "greedy_image": grey(images)}
        top_k, top_p = ((TOP_K, TOP_P), (50, 0.9), (0, 0.0))[seed // 3 % 3]
        options = {"cfg": cfg, "top_k": top_k, "top_p": top_p, "seed": seed}
        images, sampled = sample(var, tok, [label], return_tokens=True, **options)
        numbers = Noise(seed, 0, 1, torch.device("cpu")).uniform(tok.schedule.num_tokens)
        case |= {"top_k": top_k, "top_p": top_p, "uniform": numbers[0].tolist()}
        draws.append(case | {"sampled": flat(sampled, 0), "sampled_image": grey(images)})
    images, labels = held_out(count)
    tokens = tok.encode(images)
    rebuilt = [grey(tok.decode(tokens, num_scales=k + 1)) for k in range(len(tokens))]
    pictures = {"images": grey(images), "tokens": [flat(tokens, i) for i in range(count)]}
    fixtures = {"draws": draws, "pictures": pictures | {"rebuilt": rebuilt}}
    fixtures["painted"] = [painted(tok, var, images[i : i + 1], labels[i], i) for i in range(count)]
    write_json(out / "fixtures.json", fixtures)


def painted(tok: MultiScaleVQVAE, var: VAR, image: Tensor, label: int, seed: int) -> dict:
    """A case of in-painting: a rectangle of the picture with this number is drawn again."""
    mask = torch.zeros(1, 1, *image.shape[-2:], dtype=torch.bool)
    mask[..., 2 + seed % 7 : 14 + seed % 13, 1 + seed % 5 : 12 + seed % 11] = True
    noise = Noise(seed, 0, 1, torch.device("cpu"))
    options = {"cfg": GUIDANCE, "top_k": TOP_K, "top_p": TOP_P}
    replace = forced(tok, image, mask, "paper")  # the rule that the page has
    *_, (_, f_hat) = generate(var, tok, torch.tensor([label]), noise, replace=replace, **options)
    decoded = tok.decode_features(f_hat)
    keep = (~mask).flatten().int().tolist()
    return {"label": label, "seed": seed, "keep": keep, "image": grey(decoded)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "page")
    parser.add_argument("--precision", choices=("float16", "float32"), default="float16")
    parser.add_argument("--fixtures", type=int, default=0, help="how many parity cases to write")
    args = parser.parse_args(arguments)
    tok = MultiScaleVQVAE.from_pretrained("fashion")
    var = VAR.from_pretrained("fashion")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in PAGE:
        if (WEB / name).is_dir():
            shutil.copytree(WEB / name, args.out / name, dirs_exist_ok=True)
        else:
            shutil.copy2(WEB / name, args.out / name)
    with torch.no_grad():
        write_model(args.out, tok, var, args.precision)
        write_examples(args.out, tok, var)
        write_scaling(args.out)
        if args.fixtures:
            write_fixtures(args.out, tok, var, args.fixtures)
    print(args.out / "index.html")


if __name__ == "__main__":
    main()
