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
import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from varmini import VAR, MultiScaleVQVAE
from varmini.data import class_names, load_images
from varmini.model.sampler import Noise, sample
from varmini.runtime.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
PAGE = ("index.html", "style.css", "texts.json", "src")
"""What of web/ the page consists of."""
SEEDS = {0: 6, 7: 3, 8: 1, 9: 5}
"""The precomputed examples: class -> seed, picked by eye."""
EMBEDDED_PICTURES = 20
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
    return ["#" + bytes(rgb).hex() for rgb in (70 + 185 * ranks).round().int().tolist()]


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
        "classes": class_names("fashion"),
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
    images, labels = held_out(tok, EMBEDDED_PICTURES)
    write_json(
        out / "examples.json",
        {"drawings": drawings, "pictures": {"labels": labels, "images": grey(images)}},
    )


def held_out(tok: MultiScaleVQVAE, count: int) -> tuple[Tensor, list[int]]:
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
    images, _ = held_out(tok, count)
    tokens = tok.encode(images)
    rebuilt = [grey(tok.decode(tokens, num_scales=k + 1)) for k in range(len(tokens))]
    pictures = {"images": grey(images), "tokens": [flat(tokens, i) for i in range(count)]}
    write_json(out / "fixtures.json", {"draws": draws, "pictures": pictures | {"rebuilt": rebuilt}})


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
        if args.fixtures:
            write_fixtures(args.out, tok, var, args.fixtures)
    print(args.out / "index.html")


if __name__ == "__main__":
    main()
