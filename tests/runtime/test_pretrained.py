"""Saving and loading models: exact round trips, damaged files, and writing that loses nothing."""

import json
import os
import platform

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_tokenizer, make_var, random_images

from varmini import VAR, MultiScaleVQVAE, ScaleSchedule
from varmini.runtime import files, pretrained, tables
from varmini.runtime.files import file_checksum, write_atomic
from varmini.training.classifier import Classifier, ClassifierConfig


@pytest.fixture
def folder(tmp_path, tok):
    return tok.save_pretrained(tmp_path / "model")


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("model", [
    make_tokenizer(sizes=(1, (1, 2), (2, 3)), image_channels=3, lookup="cosine", num_phi=2),
    make_var(ScaleSchedule((1, (1, 2), (2, 3))), shared_adaln=True, qk_norm=False),
    make_var(ScaleSchedule((1, 2))),
    Classifier(ClassifierConfig(num_classes=3, image_channels=1, widths=(4, 8))).eval(),
], ids=["tokenizer", "shared var", "var", "classifier"])  # fmt: skip
def test_a_round_trip_is_exact(model, tmp_path):
    loaded = type(model).from_pretrained(model.save_pretrained(tmp_path / "a b" / "é"))
    names = sorted(p.name for p in (tmp_path / "a b" / "é").iterdir())
    assert names == ["config.json", "model.safetensors"]
    assert loaded.config == model.config and hash(loaded.config) == hash(model.config)
    assert not loaded.training
    for (name, old), (other, new) in zip(model.state_dict().items(), loaded.state_dict().items()):
        assert name == other and old.dtype == new.dtype and old.equal(new)


@torch.no_grad()
def test_half_precision_files_are_smaller_and_load_as_float32(tok, tmp_path):
    full = tok.save_pretrained(tmp_path / "full")
    half = tok.save_pretrained(tmp_path / "half", torch.bfloat16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    assert all(t.dtype == torch.bfloat16 for t in load_file(half / "model.safetensors").values())
    loaded = MultiScaleVQVAE.from_pretrained(half)
    for a, b in zip(tok.parameters(), loaded.parameters()):
        assert b.dtype == torch.float32 and a.bfloat16().float().equal(b)
    assert tok.quantizer.codebook.weight.dtype == torch.float32  # saving changes nothing
    assert loaded.decode(loaded.encode(random_images(1))).shape == (1, 1, 16, 16)
    counting = Classifier(ClassifierConfig(widths=(4, 8)))
    counting.stem_norm.num_batches_tracked.fill_(12_345_678)  # an integer stays one
    loaded = Classifier.from_pretrained(counting.save_pretrained(tmp_path / "c", torch.bfloat16))
    assert loaded.stem_norm.num_batches_tracked.item() == 12_345_678


def test_saving_again_replaces_both_files_the_weights_last(monkeypatch, folder, tok):
    order = []
    monkeypatch.setattr(
        pretrained, "write_atomic", lambda p, c: (order.append(p.name), write_atomic(p, c))
    )
    with torch.no_grad():
        tok.quantizer.codebook.weight.zero_()
    tok.save_pretrained(folder)
    assert not MultiScaleVQVAE.from_pretrained(folder).quantizer.codebook.weight.any()
    assert order == ["config.json", "model.safetensors"]


def test_a_shipped_name_is_found(monkeypatch, tmp_path, tok):
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path)
    tok.save_pretrained(tmp_path / "toy" / "tokenizer")
    assert MultiScaleVQVAE.from_pretrained("toy").config == tok.config
    with pytest.raises(ValueError, match="no tokenizer named 'tay'.*toy"):
        MultiScaleVQVAE.from_pretrained("tay")
    with pytest.raises(ValueError, match="no var named 'toy'"):
        VAR.from_pretrained("toy")


def test_a_hub_id(monkeypatch, folder, tok):
    asked = []

    def finds(repo, **kwargs):
        asked.append((repo, *kwargs["allow_patterns"]))
        if repo == "somebody/gone":
            raise ConnectionError("many\nlines")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", finds)
    assert MultiScaleVQVAE.from_pretrained("somebody/model").config == tok.config
    assert asked == [("somebody/model", "config.json", "model.safetensors")]
    with pytest.raises(ValueError, match="'somebody/gone'.*ConnectionError") as error:
        VAR.from_pretrained("somebody/gone")
    assert "\n" not in str(error.value)


def test_a_model_is_pushed_as_the_folder_it_is_loaded_from(monkeypatch, tmp_path, tok):
    class Hub:
        def create_repo(self, repo, exist_ok):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo}")

        def upload_folder(self, repo_id, folder_path, private_note):
            assert (repo_id, private_note) == ("me/toy", "x")
            os.rename(folder_path, tmp_path / "pushed")
            os.mkdir(folder_path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert tok.push_to_hub("me/toy", private_note="x") == "https://huggingface.co/me/toy"
    assert MultiScaleVQVAE.from_pretrained(tmp_path / "pushed").config == tok.config


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def add_tensor(folder):
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"extra": torch.zeros(1)}, path)


@pytest.mark.parametrize("damage, words", [
    (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "missing or damaged"]),
    (lambda f: cut(f / "model.safetensors", 0.5), ["model.safetensors", "damaged"]),
    (lambda f: cut(f / "model.safetensors", 0), ["model.safetensors", "damaged"]),
    (lambda f: (f / "model.safetensors").write_bytes(b"x" * 500), ["model.saf", "damaged"]),
    (add_tensor, ["model.safetensors does not fit", '"extra"']),
    (lambda f: cut(f / "config.json", 0.5), ["config.json", "JSON"]),
    (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), ["config.json", "JSON"]),
    (lambda f: (f / "config.json").write_text("[]"), ["config.json", "list, not a JSON object"]),
    (lambda f: (f / "config.json").unlink(), ["no config.json"]),
    (lambda f: change_config(f, kind="var"), ["'var'", "'tokenizer'"]),
    (lambda f: change_config(f, format=99), ["99", "update"]),
    (lambda f: change_config(f, vocab_sise=3), ["config.json", "'vocab_sise'"]),
    (lambda f: change_config(f, vocab_size=13), ["codebook.weight", "[12, 4]", "[13, 4]"]),
    (lambda f: change_config(f, multipliers=[1, 1, 1]), ["Missing", "does not fit"]),
    (lambda f: change_config(f, sizes=None), ["config.json", "sizes"]),
    # torch's own reason, in one line
    (lambda f: change_config(f, vocab_size=10**15), ["config.json", "describes no", "memory"]),
    (lambda f: change_config(f, norm_groups=7), ["describes no MultiScaleVQVAE"]),
], ids=range(17))  # fmt: skip
def test_a_damaged_model_is_one_clear_line(folder, damage, words):
    damage(folder)
    with pytest.raises(ValueError) as error:
        MultiScaleVQVAE.from_pretrained(folder)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


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
    here = f".a.safetensors.{platform.node()}"
    left = {7: f"{here}-7.tmp", 8: f"{here}-8.tmp", "elsewhere": ".a.safetensors.other-8.tmp"}
    for name in left.values():
        (tmp_path / name).write_bytes(b"half")
    write_atomic(tmp_path / "b", b"")
    assert [n for n, name in left.items() if (tmp_path / name).exists()] == [7, "elsewhere"]


def test_checksums_are_sha256(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_checksum(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    rows = [{"a": 1, "b": 0.5, "commit": "2662e1778366"}, {"a": 'x,"y"\n', "c": float("nan")}]
    path = tables.write_rows(tmp_path / "new" / "t.csv", rows)
    assert path.read_text().startswith("a,b,commit,c\n1,0.5,2662e1778366,\n")
    first, second = tables.read_rows(path)
    assert first == rows[0] and second["a"] == rows[1]["a"] and second["c"] != second["c"]
    assert tables.read_cells(path)[0] == {"a": "1", "b": "0.5", "commit": "2662e1778366", "c": ""}
    named = tables.write_rows(tmp_path / "m.csv", [{"method": "infinity", "loss": float("inf")}])
    assert tables.read_rows(named) == [{"method": "infinity", "loss": float("inf")}]
    before = path.read_text()
    with pytest.raises(ValueError, match="other columns"):
        tables.append_row(path, {"a": 2})
    with pytest.raises(ValueError, match="nothing was measured"):
        tables.write_rows(path, [])
    tables.append_row(path, {"a": 2, "b": "", "commit": "", "c": 3})
    assert path.read_text() == before + "2,,,3\n"


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"a,b\n1,2,3\n", b"a,b\n\xff,1\n", b'a\n"1\n',
                                     None])  # fmt: skip
def test_a_damaged_table_is_one_line(tmp_path, content):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv .*make it again") as error:
        tables.read_rows(path)
    assert "\n" not in str(error.value)
