"""`varmini demo`: trains both stages on the live bed, draws, and leaves a page that explains it."""

import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ... import plots, sample
from ...data import ImageSet, load_images, to_float
from ...evaluation.fid import evaluate_tokenizer
from ...model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ...model.transformer import VAR, VARConfig
from ...runtime.files import read_json, write_atomic
from ...runtime.machine import kind_of_machine, provenance
from ...runtime.pretrained import SHIPPED
from ...training import train_tokenizer, train_var
from ...training.presets import Preset, preset
from .page import duration, figure, render, section

KIND = "varmini demo"
GUIDANCE, SEED = 1.5, 0
EXPECTED = {"AVX2": "about 4 minutes", "AVX512": "about 3 minutes",
            "AVX512, bfloat16": "about 3 minutes"}  # fmt: skip
"""What the whole takes on two cores of a kind: results/timings.csv; others were not timed."""


@dataclass(frozen=True)
class Demo:
    """Trains both stages on Fashion-MNIST, samples, and shows the shipped CIFAR-10 models.

    Its first line says how long that takes here; its last names the page to open.
    """

    out: Path = Path("out/demo")  # Folder for the models, the pictures and index.html.
    overwrite: bool = False  # Replace the demo in --out; files that no demo wrote stay.
    tiny: bool = False  # A few steps of toy networks, only to try the machinery.

    def __call__(self) -> None:
        self.claim()
        begin, out = time.perf_counter(), self.out
        self.log(expectation())
        runs = _tiny(preset("fashion")) if self.tiny else preset("fashion")
        facts: dict[str, Any] = {"kind": KIND, "finished": True} | provenance()
        facts |= {"seed": SEED, "guidance": GUIDANCE}
        machine = "{hardware}; {threads} threads, {precision}, torch {torch}; commit {commit}"
        self.log(machine.format(**facts) + f"; seed {SEED}")

        self.log("1/4 training the tokenizer: pictures to token maps and back")
        start = time.perf_counter()
        train_tokenizer.train(runs.tokenizer, out / "tokenizer", overwrite=True)
        facts["tokenizer"] = self._trained("tokenizer", start, runs.tokenizer.images)
        self.log("2/4 training the transformer: from coarse maps to the next finer one")
        start = time.perf_counter()
        train_var.train(runs.var, out / "var", tokenizer=out / "tokenizer", overwrite=True)
        facts["var"] = self._trained("var", start, runs.var.images)

        self.log("3/4 drawing Fashion-MNIST with the two models")
        test = load_images(runs.tokenizer.data, "test", limit=100 if self.tiny else None)
        facts["fashion"], pictures = self._bed("fashion", out, test)
        times = {f"{stage}_time": facts[stage]["time"] for stage in ("tokenizer", "var")}
        values = facts["fashion"] | times
        mask = plots.mask_picture(MultiScaleVQVAE.from_pretrained(out / "tokenizer").schedule)
        sections = [section("how", values, [self._picture("how", "mask", mask, values)])]
        sections.append(section("fashion", values, pictures))
        facts["folder"] = out.as_posix()
        facts |= {"label": len(test.classes) - 1, "name": test.classes[-1]}
        self.log("4/4 drawing CIFAR-10 with the shipped models")
        test = load_images("cifar10-subset", "test", limit=50 if self.tiny else None)
        facts["cifar10"], pictures = self._bed("cifar10", SHIPPED / "cifar10", test)
        sections.append(section("cifar10", facts["cifar10"], pictures))

        facts["peak_memory_mb"] = peak = peak_memory_mb()
        facts["peak_memory"] = f"{peak / 1000:.1f} GB" if peak else "unknown"
        facts["total_seconds"] = round(time.perf_counter() - begin, 1)
        facts["total_time"] = duration(facts["total_seconds"])
        self.log("whole demo {total_time}, peak memory {peak_memory}".format(**facts))
        write_atomic(out / "index.html", render(sections, facts).encode())
        write_atomic(out / "demo.json", (json.dumps(facts, indent=1) + "\n").encode())
        self.log(f"Open {out / 'index.html'} in a browser")

    def claim(self) -> None:
        """Makes or takes over the folder.

        Raises:
            ValueError: for anything there but an earlier demo, and for that without `overwrite`.
        """
        out, marker = self.out, self.out / "demo.json"
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            if not marker.is_file() or read_json(marker).get("kind") != KIND:
                raise ValueError(f"{out} is no demo's, so it is left alone: choose another --out")
            if not self.overwrite:
                raise ValueError(
                    f"{out} already holds a demo: add --overwrite to replace it, or choose another "
                    "--out"
                )
        (out / "pictures").mkdir(parents=True, exist_ok=True)
        for old in ("index.html", "log.txt"):  # an unfinished demo is not taken for the old one
            (out / old).unlink(missing_ok=True)
        write_atomic(marker, json.dumps({"kind": KIND, "finished": False}).encode())

    def log(self, line: str) -> None:
        """Prints a line and keeps it in a file."""
        print(line, flush=True)
        with open(self.out / "log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _trained(self, stage: str, start: float, images: int) -> dict[str, Any]:
        """What a training run cost, and the last measured value of every column of its log."""
        seconds = time.perf_counter() - start
        columns = plots.read_log(self.out / stage / "log.csv").items()
        final = {name: float(c[c == c][-1]) for name, c in columns if (c == c).any()}
        speed = round(images / max(final["seconds"], 0.1), 1)  # of the loop, without start-up
        cost = {"seconds": round(seconds, 1), "time": duration(seconds), "images": images}
        self.log(f"    {cost['time']}, {speed:,.0f} images/s, loss {final['loss']:.4f}")
        return cost | {"images_per_second": speed, "final": final}

    def _bed(self, bed: str, models: Path, test: ImageSet) -> tuple[dict[str, Any], list[str]]:
        """Measures a pair of models on test pictures and draws with it.

        Returns:
            (numbers for demo.json and the words, HTML of its pictures with the curves of both
            trainings).
        """
        tok = MultiScaleVQVAE.from_pretrained(models / "tokenizer")
        var = VAR.from_pretrained(models / "var")
        classes, rows = len(test.classes), 1 if self.tiny else 8
        scores, start = evaluate_tokenizer(tok, test), time.perf_counter()
        labels = torch.arange(classes).repeat(rows)
        drawn, tokens = sample(var, tok, labels, cfg=GUIDANCE, seed=SEED, return_tokens=True)
        seconds, schedule = time.perf_counter() - start, tok.schedule
        maps = [f"{h}×{w}" for h, w in schedule.grids]
        shape = "A picture of {}×{} pixels becomes".format(*tok.image_size)
        shape += f" {schedule.num_tokens} tokens in {len(maps)} maps: {', '.join(maps)}."
        values = {"shape": shape, "guidance": GUIDANCE, "seed": SEED, "test": len(test)}
        values |= {"psnr": scores["psnr"], "usage": scores["usage"], "samples": len(drawn)}
        values["samples_per_second"] = round(len(drawn) / seconds, 1)
        values |= {"tokens": schedule.num_tokens, "last": schedule.tokens_per_scale[-1]}
        values |= {"steps": len(maps), "vocab": tok.vocab_size, "blind": math.log(tok.vocab_size)}
        values |= {m.kind: sum(p.numel() for p in m.parameters()) / 1e6 for m in (tok, var)}

        # The first test picture of each of some classes, so that nobody's taste chooses.
        firsts = [int((test.labels == c).nonzero()[0]) for c in range(min(6, classes))]
        real, some = to_float(test.images[firsts]), [0, classes // 2, classes - 1]
        # The hub writes "T - shirt / top".
        headings = [name.replace(" - ", "-").replace(" / ", "/") for name in test.classes]
        figures = {
            "samples": plots.image_grid(drawn, columns=classes, labels=headings),
            "growing": plots.growing(tok, [t[some] for t in tokens]),
            "scales": plots.scale_by_scale(tok, real),
            "tokens": plots.token_maps(
                tok.encode(real[:4]), tok.quantizer.codebook.weight, real[:4]
            ),
            "usage": plots.codebook_usage(scores["usage"], maps),
        }
        for kind in ("tokenizer", "var"):
            if (log := models / kind / "log.csv").is_file():
                figures[f"{kind}-curves"] = plots.loss_curves(log)
        return values, [self._picture(bed, *item, values) for item in figures.items()]

    def _picture(self, bed: str, name: str, picture: Any, values: dict[str, Any]) -> str:
        path = f"pictures/{bed}-{name}.png"
        return figure(name, values, path, plots.save(picture, self.out / path))


def expectation() -> str:
    """What to expect on this kind of processor, in one line."""
    kind = kind_of_machine()
    expected = EXPECTED.get(kind, "a few minutes")
    return f"Expect {expected} on two cores ({kind}); the bars tell what remains."


def _tiny(runs: Preset) -> Preset:
    """The same runs with toy networks and a few steps."""
    small = dict(vocab_size=32, code_channels=8, width=32, multipliers=(1,), num_res_blocks=1)
    model = TokenizerConfig((1, 2, 4), image_channels=1, attention=False, patch=8, **small)
    short = {"images": 128, "batch_size": 16, "log_every": 2, "held_out": 20}
    tokenizer = replace(runs.tokenizer, model=model, **short)
    var = replace(runs.var, model=VARConfig(depth=2, width=32, heads=2), flip=False, **short)
    return replace(runs, tokenizer=tokenizer, var=var)


def peak_memory_mb() -> int | None:
    """The most memory this process ever held, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)
