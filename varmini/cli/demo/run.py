"""`varmini demo`: trains both stages on the live bed, draws, and leaves a page that explains it."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ... import plots, sample
from ...data import ImageSet, load_images, to_float
from ...evaluation.fid import evaluate_tokenizer
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...model.transformer import VAR, VARConfig
from ...runtime.files import read_json, write_atomic
from ...runtime.machine import precision, provenance
from ...runtime.pretrained import SHIPPED
from ...training import train_tokenizer, train_var
from ...training.presets import Preset, preset
from .page import Chapter, Picture, account, code, duration, memory, render, tiles, words

KIND = "varmini demo"
GUIDANCE, SEED = 1.5, 0
EXPECTED = {torch.bfloat16: "at most 6 minutes", torch.float32: "about 6 minutes"}
"""What the whole takes on two cores: results/live_bed.csv for float32; bfloat16 was not timed."""


def run_demo(
    out: str | Path = Path("out/demo"), *, overwrite: bool = False, tiny: bool = False
) -> Path:
    """Trains tokenizer and VAR on the embedded Fashion-MNIST subset and shows what came of it.

    out: gets tokenizer/ and var/ (for `from_pretrained`), pictures/, demo.json, log.txt and
    index.html. overwrite: replace an earlier demo in `out`; files that no demo wrote stay. tiny: a
    few steps of toy networks, to try the machinery. Returns the path of index.html.

    Raises ValueError when `out` is in use: by an earlier demo without `overwrite`, or by anything
    else at all.
    """
    out = _claim(Path(out), overwrite)
    begin = time.perf_counter()
    log = _Log(out / "log.txt")
    log(expectation())
    runs = _tiny(preset("fashion")) if tiny else preset("fashion")
    facts: dict[str, Any] = {"kind": KIND, "finished": True} | provenance()
    facts |= {"seed": SEED, "guidance": GUIDANCE}
    log(f"{facts['hardware']}; {facts['threads']} threads, {facts['precision']}, torch "
        f"{facts['torch']}; commit {facts['commit']}; seed {SEED}")  # fmt: skip

    log("1/4 training the tokenizer: pictures to token maps and back")
    start = time.perf_counter()
    train_tokenizer.train(runs.tokenizer, out / "tokenizer", overwrite=True)
    facts["tokenizer"] = _trained(out / "tokenizer", start, runs.tokenizer.images, log)
    log("2/4 training the transformer: from coarse maps to the next finer one")
    start = time.perf_counter()
    train_var.train(runs.var, out / "var", tokenizer=out / "tokenizer", overwrite=True)
    facts["var"] = _trained(out / "var", start, runs.var.images, log)

    log("3/4 drawing Fashion-MNIST with the two models")
    test = load_images(runs.tokenizer.data, "test", limit=100 if tiny else None)
    chapters = _fashion(facts, out, test, tiny)
    log("4/4 drawing CIFAR-10 with the shipped models")
    chapters.append(_cifar10(facts, out, tiny, log))

    facts["peak_memory_mb"] = peak_memory_mb()
    facts["total_seconds"] = round(time.perf_counter() - begin, 1)
    log(f"whole demo {duration(facts['total_seconds'])}, peak memory {memory(facts)}")
    go_on = code(out.as_posix(), len(test.classes) - 1, test.classes[-1])
    page = render(chapters, tiles(facts), account(facts), go_on)
    write_atomic(out / "index.html", page.encode())
    write_atomic(out / "demo.json", (json.dumps(facts, indent=1) + "\n").encode())
    log(f"Open {out / 'index.html'} in a browser")
    return out / "index.html"


def expectation() -> str:
    """What to expect on this kind of processor, in one line."""
    if torch.cuda.is_available():
        return "This trains two small models on the GPU; the bars tell what remains."
    kind, others = precision(), {torch.bfloat16: "with", torch.float32: "without"}
    return (
        f"Expect {EXPECTED[kind]} on two cores: a processor {others[kind]} instructions for "
        f"bfloat16; the bars tell what remains."
    )


class _Log:
    """Prints lines and keeps them in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)
        write_atomic(self.path, ("\n".join(self.lines) + "\n").encode())


def _claim(out: Path, overwrite: bool) -> Path:
    """Makes or takes over the demo's folder; nothing but an earlier demo is ever replaced."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder for the demo: choose another --out")
    if out.is_dir() and any(out.iterdir()):
        marker = out / "demo.json"
        if not marker.is_file() or read_json(marker).get("kind") != KIND:
            raise ValueError(
                f"{out} holds files that no demo wrote, so it is left alone: choose another --out"
            )
        if not overwrite:
            raise ValueError(
                f"{out} already holds a demo: add --overwrite to replace it or choose another --out"
            )
        # An unfinished new demo must not be taken for the finished old one.
        (out / "index.html").unlink(missing_ok=True)
    try:
        (out / "pictures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{out} cannot be made ({error.strerror}): choose another --out") from None
    write_atomic(out / "demo.json", json.dumps({"kind": KIND, "finished": False}).encode())
    return out


def _tiny(runs: Preset) -> Preset:
    """The same runs with toy networks and a few steps."""
    small = dict(vocab_size=32, code_channels=8, width=32, multipliers=(1,), num_res_blocks=1)
    model = TokenizerConfig((1, 2, 4), image_channels=1, attention=False, patch=8, **small)
    short = {"images": 128, "batch_size": 16, "log_every": 2, "held_out": 20}
    tokenizer = dataclasses.replace(runs.tokenizer, model=model, **short)
    network = VARConfig(depth=2, width=32, heads=2)
    var = dataclasses.replace(runs.var, model=network, flip=False, **short)
    return dataclasses.replace(runs, tokenizer=tokenizer, var=var)


def _trained(folder: Path, start: float, images: int, log: _Log) -> dict[str, Any]:
    """What a training run cost, and the last measured value of every column of its log."""
    seconds = time.perf_counter() - start
    columns = plots.read_log(folder / "log.csv").items()
    final = {name: float(c[c == c][-1]) for name, c in columns if (c == c).any()}
    speed = round(images / max(final["seconds"], 0.1), 1)  # of the loop alone, without start-up
    log(f"    {duration(seconds)}, {speed:,.0f} images/s, loss {final['loss']:.4f}")
    cost = {"seconds": round(seconds, 1), "images": images, "images_per_second": speed}
    return cost | {"final": final}


def peak_memory_mb() -> int | None:
    """The most memory this process ever held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


def _fashion(facts: dict[str, Any], out: Path, test: ImageSet, tiny: bool) -> list[Chapter]:
    """The chapters on the method and on the two models trained just now."""
    tok, var = MultiScaleVQVAE.from_pretrained(out / "tokenizer"), VAR.from_pretrained(out / "var")
    facts["fashion"], values, pictures = _bed("fashion", tok, var, test, out, out, tiny)
    values |= {f"{k}_time": duration(facts[k]["seconds"]) for k in ("tokenizer", "var")}
    figure = plots.mask_picture(tok.schedule)
    mask = _picture(out, "mask", figure, words("pictures", "mask", values), chart=True)
    return [
        Chapter("how", **words("chapters", "how", values), pictures=[mask]),
        Chapter("fashion", **words("chapters", "fashion", values), pictures=pictures),
    ]


def _cifar10(facts: dict[str, Any], out: Path, tiny: bool, log: _Log) -> Chapter:
    """The chapter on the shipped models; one line of explanation where they are missing."""
    try:
        tok, var = MultiScaleVQVAE.from_pretrained("cifar10"), VAR.from_pretrained("cifar10")
    except ValueError as error:
        facts["cifar10"] = {"missing": str(error)}
        log(f"    not shown: {error}")
        return Chapter("cifar10", **words("chapters", "missing", {"reason": error}))
    test = load_images("cifar10-subset", "test", limit=50 if tiny else None)
    bed = _bed("cifar10", tok, var, test, SHIPPED / "cifar10", out, tiny)
    facts["cifar10"], values, pictures = bed
    return Chapter("cifar10", **words("chapters", "cifar10", values), pictures=pictures)


def _bed(
    bed: str, tok: MultiScaleVQVAE, var: VAR, test: ImageSet, models: Path, out: Path, tiny: bool
) -> tuple[dict[str, Any], dict[str, Any], list[Picture]]:
    """Measures a pair of models on test pictures and draws with it.

    Returns:
        (numbers for demo.json, values for the words, pictures with the curves of both trainings).
    """
    classes, rows = len(test.classes), 1 if tiny else 8
    scores, start = evaluate_tokenizer(tok, test), time.perf_counter()
    labels = torch.arange(classes).repeat(rows)
    drawn, tokens = sample(var, tok, labels, cfg=GUIDANCE, seed=SEED, return_tokens=True)
    seconds = time.perf_counter() - start
    # The first test picture of each of some classes, so that nobody's taste chooses.
    firsts = [int((test.labels == c).nonzero()[0]) for c in range(min(6, classes))]
    real, some = to_float(test.images[firsts]), [0, classes // 2, classes - 1]
    # The hub writes "T - shirt / top".
    headings = [name.replace(" - ", "-").replace(" / ", "/") for name in test.classes]
    codebook, names = tok.quantizer.codebook.weight, [f"{h}×{w}" for h, w in tok.schedule.grids]
    figures = {
        "samples": plots.image_grid(drawn, columns=classes, labels=headings),
        "growing": plots.growing(tok, [t[some] for t in tokens]),
        "scales": plots.scale_by_scale(tok, real),
        "tokens": plots.token_maps(tok.encode(real[:4]), codebook, real[:4]),
        "usage": plots.codebook_usage(scores["usage"], names),
    }
    for kind in ("tokenizer", "var"):
        if (log := models / kind / "log.csv").is_file():
            figures[f"{kind}-curves"] = plots.loss_curves(log)

    numbers = {
        "test_pictures": len(test),
        "psnr": scores["psnr"],
        "usage": scores["usage"],
        "samples": len(drawn),
        "samples_per_second": round(len(drawn) / seconds, 1),
        "tokens": tok.schedule.num_tokens,
        "steps": len(names),
        "parameters": {m.kind: sum(p.numel() for p in m.parameters()) for m in (tok, var)},
    }
    values = _values(tok, numbers)
    charts = {"usage", "tokenizer-curves", "var-curves"}
    pictures = [
        _picture(out, f"{bed}-{name}", figure, words("pictures", name, values), name in charts)
        for name, figure in figures.items()
    ]
    return numbers, values, pictures


def _values(tok: MultiScaleVQVAE, numbers: dict[str, Any]) -> dict[str, Any]:
    """What the words of a bed's chapter and pictures have blanks for."""
    maps = [f"{h}×{w}" for h, w in tok.schedule.grids]
    values = {"guidance": GUIDANCE, "seed": SEED, "vocab": tok.vocab_size}
    values |= {"steps": len(maps), "last": tok.schedule.tokens_per_scale[-1]}
    values |= {"psnr": numbers["psnr"], "test": numbers["test_pictures"]}
    values |= {kind: count / 1e6 for kind, count in numbers["parameters"].items()}
    height, width = tok.image_size
    shape = f"A picture of {height}×{width} pixels becomes {tok.schedule.num_tokens} tokens"
    values["shape"] = f"{shape} in {len(maps)} maps: {', '.join(maps)}."
    return values | {"blind": math.log(tok.vocab_size)}


def _picture(out: Path, file: str, figure: Any, text: dict[str, str], chart: bool) -> Picture:
    path = f"pictures/{file}.png"
    return Picture(path, plots.save(figure, out / path), **text, chart=chart)
