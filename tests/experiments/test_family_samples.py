"""The sheet of samples: the sweep's guidance, a row a finished generator, a clear message else."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.methods import METHODS
from varmini.plots import save
from varmini.runtime.tables import write_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "evidence"))

import family_samples


def test_the_guidance_is_the_nearest_that_was_tried(tmp_path):
    assert family_samples.best_guidance(tmp_path, "var", "") == METHODS["var"].guidance
    tried = [("var", "", 1.0, 3.0), ("var", "", 2.0, 1.0), ("dit", "DDIM 25", 3.0, 0.5)]
    keys = ("method", "drawing", "guidance", "frechet")
    write_rows(tmp_path / "guidance.csv", [dict(zip(keys, row)) for row in tried])
    assert family_samples.best_guidance(tmp_path, "var", "") == 2.0
    assert family_samples.best_guidance(tmp_path, "dit", "DDIM 25") == 3.0


def test_finished_generators_have_a_row_of_two_a_class(tmp_path, monkeypatch):
    asked, grey = {}, 0.0

    def drawn(codes, name, model, labels, seed, **options):
        asked[name] = (labels.tolist(), seed, options["guidance"])
        return torch.full((len(labels), 1, 32, 32), grey)

    monkeypatch.setattr(family_samples, "finished_model", lambda codes, name, seed: None)
    monkeypatch.setattr(family_samples, "draw_many", drawn)
    codes = Codes(Bed(), tmp_path)
    with pytest.raises(ValueError, match="holds no finished generator of seed 0: run `varmini"):
        family_samples.samples(codes, tmp_path)
    for name in ("var", "maskgit"):
        (tmp_path / f"{name}-s0").mkdir()
        (tmp_path / f"{name}-s0" / "model.safetensors").touch()
    figure, rows = family_samples.samples(codes, tmp_path)
    assert [row["method"] for row in rows] == ["var", "maskgit"] and len(figure.axes) == 1
    labels = [k for k in range(10) for _ in range(2)]
    assert asked == {name: (labels, 0, METHODS[name].guidance) for name in ("var", "maskgit")}
    # A row that has no run any more stays as it is, if it is to be kept.
    save(figure, tmp_path / "samples.png")
    (tmp_path / "var-s0" / "model.safetensors").unlink()
    grey = -1.0
    earlier = tuple(row | {"date": "earlier"} for row in rows)
    figure, now = family_samples.samples(codes, tmp_path, before=earlier)
    assert now[0] == earlier[0] and now[1] not in earlier
    before = np.array(Image.open(tmp_path / "samples.png"))
    after = np.array(family_samples.pasted(tmp_path / "samples.png", figure, [1], 2))
    middle = after.shape[0] // 2
    assert (after[:middle] == before[:middle]).all()
    assert (after == 0).sum() > (before == 0).sum() + 20 * 32 * 32


def test_without_a_bed_the_command_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="give the folder of `varmini compare --sweep`"):
        family_samples.main(["--runs", str(tmp_path)])
