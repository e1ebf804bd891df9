"""Saving and loading models: exact round trips, damaged files, and writing that loses nothing."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tokenizer, make_var, random_images

from varmini import VAR, MultiScaleVQVAE, ScaleSchedule, TokenizerConfig
from varmini.runtime import files, pretrained
from varmini.runtime.files import file_checksum, write_atomic
from varmini.runtime.pretrained import build_config
from varmini.training.classifier import Classifier, ClassifierConfig


@pytest.fixture
def folder(tmp_path, tok):
    return tok.save_pretrained(tmp_path / "model")


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "model",
    [
        make_tokenizer(sizes=(1, (1, 2), (2, 3)), image_channels=3, lookup="cosine", num_phi=2),
        make_var(ScaleSchedule((1, (1, 2), (2, 3))), shared_adaln=True, qk_norm=False),
        make_var(ScaleSchedule((1, 2))),
        Classifier(ClassifierConfig(num_classes=3, image_channels=1, widths=(4, 8))).eval(),
    ],
    ids=["tokenizer", "shared var", "var", "classifier"],
)
def test_a_round_trip_is_exact(model, tmp_path):
    loaded = type(model).from_pretrained(model.save_pretrained(tmp_path / "a" / "b"))
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert loaded.config == model.config and hash(loaded.config) == hash(model.config)
    assert not loaded.training
    for (name, old), (other, new) in zip(model.state_dict().items(), loaded.state_dict().items()):
        assert name == other and old.dtype == new.dtype and old.equal(new)


@torch.no_grad()
def test_half_precision_files_are_smaller_and_load_as_float32(tok, tmp_path):
    full, half = (
        tok.save_pretrained(tmp_path / "full"),
        tok.save_pretrained(tmp_path / "half", torch.bfloat16),
    )
    sizes = [(f / "model.safetensors").stat().st_size for f in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert all(t.dtype == torch.bfloat16 for t in load_file(half / "model.safetensors").values())
    loaded = MultiScaleVQVAE.from_pretrained(half)
    for a, b in zip(tok.parameters(), loaded.parameters()):
        assert b.dtype == torch.float32 and a.bfloat16().float().equal(b)
    assert tok.quantizer.codebook.weight.dtype == torch.float32  # saving changes nothing
    assert loaded.decode(loaded.encode(random_images(1))).shape == (1, 1, 16, 16)


def test_counters_of_a_classifier_stay_integers_in_half_precision(tmp_path):
    model = Classifier(ClassifierConfig(widths=(4, 8)))
    model.stem_norm.num_batches_tracked.fill_(12_345_678)
    loaded = Classifier.from_pretrained(model.save_pretrained(tmp_path, torch.bfloat16))
    assert loaded.stem_norm.num_batches_tracked.item() == 12_345_678


def test_saving_again_replaces_both_files(folder, tok):
    with torch.no_grad():
        tok.quantizer.codebook.weight.zero_()
    tok.save_pretrained(folder)
    assert not MultiScaleVQVAE.from_pretrained(folder).quantizer.codebook.weight.any()


def test_weights_are_written_last_so_that_they_mark_a_whole_model(monkeypatch, tmp_path, tok):
    order = []
    monkeypatch.setattr(pretrained, "write_atomic", lambda path, content: order.append(path.name))
    tok.save_pretrained(tmp_path)
    assert order == ["config.json", "model.safetensors"]


def test_a_shipped_name_is_found(monkeypatch, tmp_path, tok):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    tok.save_pretrained(tmp_path / "toy" / "tokenizer")
    assert MultiScaleVQVAE.from_pretrained("toy").config == tok.config
    with pytest.raises(ValueError, match="no tokenizer named 'tay'.*toy"):
        MultiScaleVQVAE.from_pretrained("tay")
    with pytest.raises(ValueError, match="no var named 'toy'"):
        VAR.from_pretrained("toy")


def test_a_hub_id_that_cannot_be_had_is_one_line(monkeypatch):
    import huggingface_hub

    def fails(*args, **kwargs):
        raise ConnectionError("many\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(ValueError, match="'somebody/model'.*ConnectionError") as error:
        VAR.from_pretrained("somebody/model")
    assert "\n" not in str(error.value)


def test_a_hub_id_is_loaded_from_where_the_hub_put_it(monkeypatch, folder, tok):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, **kwargs: asked.append((repo, kwargs)) or str(folder),
    )
    assert MultiScaleVQVAE.from_pretrained("somebody/model").config == tok.config
    assert asked[0][0] == "somebody/model"
    assert set(asked[0][1]["allow_patterns"]) == {"config.json", "model.safetensors"}


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "missing or damaged"]),
        (lambda f: cut(f / "model.safetensors", 0.5), ["model.safetensors", "damaged"]),
        (lambda f: cut(f / "model.safetensors", 0), ["model.safetensors", "damaged"]),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 500),
            ["model.safetensors", "damaged"],
        ),
        (lambda f: cut(f / "config.json", 0.5), ["config.json", "JSON"]),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), ["config.json", "JSON"]),
        (lambda f: (f / "config.json").write_text("[]"), ["config.json", "list", "object"]),
        (lambda f: (f / "config.json").unlink(), ["no config.json"]),
        (lambda f: change_config(f, kind="var"), ["'var'", "'tokenizer'"]),
        (lambda f: change_config(f, format=99), ["99", "update"]),
        (lambda f: change_config(f, vocab_sise=3), ["'vocab_sise'", "'vocab_size'"]),
        (lambda f: change_config(f, quux=3), ["'quux'", "known keys"]),
        (
            lambda f: change_config(f, vocab_size=13),
            ["quantizer.codebook.weight", "(12, 4)", "(13, 4)"],
        ),
        (lambda f: change_config(f, multipliers=[1, 1, 1]), ["missing", "does not fit"]),
        (lambda f: change_config(f, width="32"), ["width", "32"]),
        (lambda f: change_config(f, sizes="124"), ["size"]),
        (lambda f: change_config(f, sizes=None), ["sizes"]),
        # No memory is taken for what the weights do not hold, and torch's reasons are one line.
        (lambda f: change_config(f, vocab_size=10**12), ["vocab_size is 10000", "more than any"]),
        (lambda f: change_config(f, norm_groups=7), ["describes no MultiScaleVQVAE"]),
    ],
    ids=range(19),
)
def test_a_damaged_model_is_one_clear_line(folder, damage, words):
    damage(folder)
    with pytest.raises(ValueError) as error:
        MultiScaleVQVAE.from_pretrained(folder)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_weights_of_another_model_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="unknown extra"):
        MultiScaleVQVAE.from_pretrained(folder)


def test_a_missing_required_key_is_named():
    from varmini.training.presets import TokenizerTraining

    with pytest.raises(ValueError, match="here: missing key 'data'"):
        build_config(TokenizerTraining, {"images": 3}, "here")
    assert build_config(TokenizerConfig, {"sizes": [1, [2, 3]]}).sizes == (1, (2, 3))


# ----------------------------------------------------------------------------------- atomic writing


def test_a_failed_write_leaves_the_old_file_and_no_other(monkeypatch, tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space"):
                write_atomic(path, b"new")
        assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["file"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_file_is_on_disk_before_it_gets_its_name(monkeypatch, tmp_path):
    order, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: order.append("fsync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: order.append("replace") or replace(a, b))
    write_atomic(tmp_path / "file", b"content")
    assert order[:2] == ["fsync", "replace"]


def test_the_next_write_removes_what_dead_processes_of_this_machine_left(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_runs", lambda process: process == 7)
    left = {n: tmp_path / f".a.safetensors.{files._HOST}-{n}.tmp" for n in (7, 8)}
    left["elsewhere"] = tmp_path / ".a.safetensors.another-machine-8.tmp"
    for path in left.values():
        path.write_bytes(b"half")
    write_atomic(tmp_path / "b", b"")
    assert [n for n, path in left.items() if path.exists()] == [7, "elsewhere"]


def test_checksums_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_checksum(tmp_path / "abc") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
