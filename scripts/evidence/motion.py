"""Trains and measures what draws moving garments: results/motion/.

    python scripts/evidence/motion.py --train evaluator classifier tokenizer-pyramid \
        tokenizer-grid decoder-pyramid decoder-grid infinity-star-s{0,1,2} magvit-s{0,1,2}
    python scripts/evidence/motion.py --measure --pictures

With --written-out, as the committed MAGVIT, attention is two products and a softmax: in bfloat16 on
a CPU its backward pass is quicker than the fused one's, and it is equal up to rounding.

Runs go on where they were stopped, and finished ones are found. Every finished run of both systems
is measured, but for rows that the table has: remove it to measure all of them anew. What the
columns mean is in varmini/experiments/motion/measure.py.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from varmini.experiments.motion import bed, measure
from varmini.experiments.motion.network import VideoNetwork
from varmini.plots.images import pixels_of
from varmini.runtime.distributed import progress
from varmini.runtime.tables import RESULTS, Row, origin, rows_of, write_rows
from varmini.zoo.parts import SelfAttention
from varmini.zoo.tokenizers.causal_video import CausalVideoTokenizer

FOLDER = RESULTS / "motion"
TRIED = {
    "infinity-star": [{"cfg": cfg, "tau": tau} for tau in (1.0, 0.8)
                      for cfg in (0.0, 0.5, 1.0, 2.0, 4.0)],
    "magvit": [{"cfg": 2.0, "rounds": rounds, "temperature": temperature, "tau": tau}
               for rounds, temperature in ((24, 10.0), (12, 1.0)) for tau in (1.0, 0.8)],
}  # fmt: skip
"""What `--choose` tries; what was chosen stands in `measure.DRAWING`."""


def train(name: str, out: Path) -> Path:
    """Trains evaluator, classifier, tokenizer-<which>, decoder-<which> or <method>-s<seed>."""
    method, _, seed = name.rpartition("-s")
    if name in bed.NETWORKS:
        return bed.train_network(name, out)
    if method in bed.METHODS and seed.isdecimal():
        return bed.train_model(method, int(seed), out)
    for kind, run in (("tokenizer", bed.train_tokenizer), ("decoder", bed.train_decoder)):
        if name.removeprefix(f"{kind}-") in bed.TOKENIZERS:
            return run(name.removeprefix(f"{kind}-"), out)
    raise ValueError(f"no training named {name!r}, expected evaluator, "
                     f"classifier, tokenizer- or decoder- with {', '.join(bed.TOKENIZERS)}, or "
                     f"{', '.join(n + '-s0' for n in bed.METHODS)}")  # fmt: skip


def written_out(self: SelfAttention, x: Tensor) -> Tensor:
    """`SelfAttention.forward`."""
    q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
    shares = (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1).to(v.dtype)
    return self.proj((shares @ v).transpose(1, 2).flatten(2))


def rows(out: Path, count: int, made: list[Row]) -> Iterator[list[Row]]:
    """`made`, and what else is measured, a row more each time.

    What is real, what the tokenizers make of it, and what the models draw.
    """
    network = bed.load(VideoNetwork, out / "evaluator")
    truth, other = measure.test_videos(count, seed=1), measure.test_videos(count, seed=2)
    real = measure.features_of(other.frames, network)

    def row(system: str, task: str, seed: int, videos: Tensor, given: int, steps: int = 0) -> Row:
        found = measure.figures(videos, truth, given, network, real)
        return {"system": system, "task": task, "seed": seed, "videos": count, "given": given,
                "steps": steps} | found | origin()  # fmt: skip

    jobs = [("real", 0, "as they are")]
    jobs += [(f"tokenizer, {name}", 0, "reconstruct") for name in bed.TOKENIZERS]
    jobs += [(method, seed, task) for method in bed.METHODS for seed in range(5)
             if (out / f"{method}-s{seed}" / "model.safetensors").exists()
             for task in measure.TASKS]  # fmt: skip
    done = {(r["system"], r["seed"], r["task"]) for r in made if r["videos"] == count}
    for name, seed, task in progress([job for job in jobs if job not in done], "videos"):
        if name == "real":
            new = row(name, task, 0, truth.frames, 5)
        elif name not in bed.METHODS:
            tok = bed.load(CausalVideoTokenizer, out / f"decoder-{name.split(', ')[1]}")
            again = torch.cat([tok.decode(tok.encode(x)) for x in truth.frames.split(64)])
            new = row(name, task, 0, again, 5)
        else:
            model, tok = measure.pair(name, seed, out)
            given, options = measure.TASKS[task], measure.DRAWING[name]
            videos = measure.drawn(model, tok, truth, given, 1000 * seed, **options)
            new = row(name, task, seed, videos, given, model.steps(**options))
        made = [*made, new]
        yield made


def choices(out: Path, made: list[Row]) -> Iterator[list[Row]]:
    """Options of drawing, tried on videos apart from those of `rows`; `made` ones are not again."""
    network = bed.load(VideoNetwork, out / "evaluator")
    truth, other = measure.test_videos(128, seed=11), measure.test_videos(256, seed=12)
    real = measure.features_of(other.frames, network)
    tried = [(method, task, options) for method, several in TRIED.items()
             for options in several for task in ("generate", "continue")]  # fmt: skip
    for method, task, options in progress(tried, "options"):
        key = {"system": method, "task": task, "seed": 0, "videos": 128} | options
        if any(all(row.get(k) == v for k, v in key.items()) for row in made):
            continue
        model, tok = measure.pair(method, 0, out)
        given = measure.TASKS[task]
        videos = measure.drawn(model, tok, truth, given, 7, **options)
        found = measure.figures(videos, truth, given, network, real)
        kept = {k: found[k] for k in ("frechet", "kept", "kept_se", "error") if k in found}
        made = [*made, key | kept | origin()]
        yield made


def sheet(rows_: list[Tensor], enlarged: int = 3) -> list[np.ndarray]:
    """Videos (n, 1, F, H, W) a row -> frames (H', W') uint8, videos side by side, rows below."""
    frames = []
    for t in range(rows_[0].shape[2]):
        lines = []
        for videos in rows_:
            images = np.pad(pixels_of(videos[:, :, t])[..., 0], ((0, 0), (1, 1), (1, 1)),
                            constant_values=90)  # fmt: skip
            lines.append(np.concatenate(list(images), axis=1))
        frames.append(np.concatenate(lines).repeat(enlarged, 0).repeat(enlarged, 1))
    return frames


def write_gif(path: Path, frames: list[np.ndarray]) -> None:
    """A GIF that runs for ever, eight frames a second."""
    from PIL import Image

    images = [Image.fromarray(frame // 16 * 16) for frame in frames]  # few greys, small files
    images[0].save(path, save_all=True, append_images=images[1:], duration=125, loop=0)


def pictures(out: Path, folder: Path) -> None:
    """A GIF of each, and the same videos for notebook 16: videos.safetensors."""
    from safetensors.torch import save_file

    garments, kept = measure.MovingGarments("test"), {}
    several = garments.batch(400, seed=3)
    chosen = torch.tensor([int((several.labels == y).nonzero()[i]) for i in range(2)
                           for y in range(len(bed.CLASSES))])  # fmt: skip
    truth = measure.Videos(*(part[chosen] for part in several))
    kept["real"] = truth.frames
    for method in bed.METHODS:
        model, tok = measure.pair(method, 0, out)
        for task, given in measure.TASKS.items():
            kept[f"{method}, {task}"] = measure.drawn(model, tok, truth, given, 5,
                                                      **measure.DRAWING[method])  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_gif(folder / "real.gif", sheet([kept["real"][:5], kept["real"][5:]]))
    for method in bed.METHODS:
        videos = kept[f"{method}, generate"]
        write_gif(folder / f"{method}.gif", sheet([videos[:5], videos[5:]]))
    for task in ("image to video", "continue"):
        lines = [kept["real"], *(kept[f"{method}, {task}"] for method in bed.METHODS)]
        write_gif(folder / f"{task.replace(' ', '_')}.gif", sheet([v[:8] for v in lines]))
    bytes_ = {k: torch.from_numpy(np.stack([pixels_of(v[:, :, t])[..., 0] for t in range(13)], 1))
              for k, v in kept.items()}  # fmt: skip
    save_file({k: v.contiguous() for k, v in bytes_.items()}, folder / "videos.safetensors")


def logs(out: Path, folder: Path) -> None:
    """The logs of all finished runs, beside the tables."""
    for path in sorted(out.glob("*/log.csv")):
        if (path.parent / "model.safetensors").exists():
            (folder / "logs").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "logs" / f"{path.parent.name}.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/motion"), help="folder of the runs")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--choose", action="store_true", help="write results/motion/choices.csv")
    parser.add_argument("--measure", action="store_true", help="write results/motion/motion.csv")
    parser.add_argument("--pictures", action="store_true", help="write results/motion/*.gif")
    parser.add_argument("--videos", type=int, default=128, help="test videos that are measured")
    parser.add_argument("--written-out", action="store_true", help="attention in training")
    args = parser.parse_args()
    if args.written_out:
        SelfAttention.forward = written_out
    for name in args.train:
        print(train(name, args.out))
    if args.choose:
        table = FOLDER / "choices.csv"
        for made in choices(args.out, rows_of(table)):
            print(f"wrote {write_rows(table, made)}")
    if args.measure:
        table = FOLDER / "motion.csv"
        for made in rows(args.out, args.videos, rows_of(table)):
            print(f"wrote {write_rows(table, made)}")
        logs(args.out, FOLDER)
    if args.pictures:
        pictures(args.out, FOLDER)


if __name__ == "__main__":
    main()
