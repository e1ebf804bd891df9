"""The sheet of tokenizers: a named row for each finished run, and a clear word without any."""

import sys
from pathlib import Path

import pytest
import torch

from varmini.experiments.comparison.bed import Bed, Codes
from varmini.experiments.comparison.tokenizers import BUILDERS, FAMILY

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "evidence"))

import family_pictures


def test_a_row_for_each_finished_tokenizer(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        family_pictures, "image_grid", lambda images, **named: shown.update(named, images=images)
    )
    codes = Codes(Bed(), tmp_path)
    for name in ("var", "fsq"):
        BUILDERS[name].cls(BUILDERS[name].config).save_pretrained(codes.folder(name))
    family_pictures.tokenizers(codes)
    assert shown["rows"] == ["real", "VAR", "FSQ"] and shown["columns"] == 12
    assert shown["images"].shape == (3 * 12, 1, 32, 32) and shown["images"].abs().max() <= 1
    assert not torch.equal(shown["images"][:12], shown["images"][12:24])


def test_every_tokenizer_has_a_name_and_without_runs_it_says_what_to_do(tmp_path):
    assert set(family_pictures.NAMES) == set(FAMILY)
    with pytest.raises(ValueError, match="varmini compare --sweep"):
        family_pictures.tokenizers(Codes(Bed(), tmp_path))
    with pytest.raises(SystemExit, match="bed.json is not there"):
        family_pictures.main(["tokenizers", "--runs", str(tmp_path)])
