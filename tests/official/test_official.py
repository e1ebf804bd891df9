"""Official checkpoints: both directions, what is read off the tensors, and what is refused."""

import argparse
from dataclasses import replace

import pytest
import torch
from golden_case import SIZES, models, official_vae, official_var
from safetensors.torch import save_file
from small_pictures import message
from tiny import redraw

from varmini import VAR, MultiScaleVQVAE, TokenizerConfig, VARConfig
from varmini.official import load_official, to_official

TOK = TokenizerConfig(sizes=(1, 2, 4), vocab_size=12, code_channels=4, width=32, multipliers=(1, 2),
                      num_res_blocks=1)  # fmt: skip
MODEL = VARConfig(depth=2, width=64, heads=4, sizes=(1, 2, 4), vocab_size=12, code_channels=4,
                  num_classes=5)  # fmt: skip


def random_model(config):
    """A model none of whose tensors is zero or equal to another's."""
    cls = VAR if isinstance(config, VARConfig) else MultiScaleVQVAE
    return redraw(cls(config), 0, 1.0).eval()


def assert_equal_states(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def assert_loads_as(given, expected, **options):
    for source, ours, theirs in zip(given, load_official(*given, TOK.sizes, **options), expected):
        assert (source is None) == (ours is None)
        if ours is not None:
            assert_equal_states(ours.state_dict(), theirs.state_dict())


@pytest.fixture
def pair():
    return random_model(TOK), random_model(MODEL)


@pytest.fixture
def states(pair):
    return to_official(*pair)


# ----------------------------------------------------------------------------- there and back again


@pytest.mark.parametrize("change", [
    {}, {"num_phi": 0}, {"num_phi": 1}, {"num_phi": 2},
    {"num_phi": 3},  # one per scale
    {"sizes": (1, 2, 3, 4), "num_phi": 4}, {"sizes": ((1, 2), (2, 4)), "image_channels": 1},
    {"attention": False, "multipliers": (1, 1, 2, 3)}, {"multipliers": (2, 3), "num_res_blocks": 2},
], ids=str)  # fmt: skip
def test_tokenizer_round_trip_is_bit_equal(change):
    tok = random_model(replace(TOK, **change))
    state, nothing = to_official(tok, None)
    again, none = load_official(state, None, tok.config.sizes)
    assert nothing is None and none is None and again.config == tok.config
    assert_equal_states(tok.state_dict(), again.state_dict())
    assert not again.training and again.quantizer.codebook.weight.requires_grad


@pytest.mark.parametrize("change", [
    {}, {"shared_adaln": True}, {"qk_norm": False}, {"depth": 1, "mlp_ratio": 1.5},
    {"depth": 11, "width": 24, "heads": 3}, {"sizes": ((2, 1), (2, 3))},
], ids=str)  # fmt: skip
def test_transformer_round_trip_is_bit_equal(change):
    """Depth and all other sizes are read from the file."""
    var = random_model(replace(MODEL, **change))
    config, state = var.config, to_official(None, var)[1]
    again = load_official(None, state, config.sizes, heads=None if config.qk_norm else 4)[1]
    assert again.config == config
    assert_equal_states(var.state_dict(), again.state_dict())
    inputs = torch.randn(2, var.schedule.num_tokens - var.schedule.tokens_per_scale[0], 4)
    labels = torch.tensor([0, config.num_classes])
    with torch.no_grad():  # the mask and the level ids are in no checkpoint
        assert torch.equal(var(labels, inputs), again(labels, inputs))


def test_official_to_ours_to_official_is_bit_equal():
    tok, var = models()
    assert tok.config == TokenizerConfig(sizes=SIZES, vocab_size=64, code_channels=8, width=32)
    assert var.config == VARConfig(depth=2, width=64, heads=2, sizes=SIZES, vocab_size=64,
                                   code_channels=8, num_classes=10)  # fmt: skip
    for ours, theirs in zip(to_official(tok, var), (official_vae(), official_var())):
        assert_equal_states(ours, theirs)


@pytest.mark.parametrize("phis, name", [(1, "qresi"), (2, "qresi_ls.1"), (3, "2")])
def test_phis_have_their_official_names(phis, name):
    tok = random_model(replace(TOK, num_phi=phis))
    state = to_official(tok, None)[0]
    assert f"quantize.quant_resi.{name}.weight" in state
    if phis == len(TOK.sizes):  # as many partially shared ones as scales
        state = {k.replace("resi.", "resi.qresi_ls."): v for k, v in state.items()}
        assert_loads_as((state, None), (tok, None))


# ------------------------------------------------------------------------- files, prefixes, buffers


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_files(ending, tmp_path, states, pair):
    paths = tmp_path / f"vae{ending}", str(tmp_path / f"var{ending}")
    for state, path in zip(states, paths):
        torch.save(state, path) if ending == ".pth" else save_file(state, path)
    assert_loads_as(paths, pair)


@pytest.mark.parametrize("old, new", [
    ("", "module."), ("", "_orig_mod.module."),
    ("blocks.1.", "blocks.1._checkpoint_wrapped_module._orig_mod."),
])  # fmt: skip
def test_prefixes_of_ddp_and_compile(old, new, states, pair):
    wrapped = [{k.replace(old, new, 1): v for k, v in state.items()} for state in states]
    assert_loads_as(wrapped, pair)


@pytest.mark.parametrize("wrap", [
    lambda vae, var: {"trainer": {"vae_local": vae, "var_wo_ddp": var}},
    lambda vae, var: {"epoch": 3, "iter": 7, "args": {"depth": 2}, "trainer": {
        "config": {}, "vae_local": vae, "var_wo_ddp": {"module." + k: v for k, v in var.items()},
        "var_opt": {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": []},
                    "scaler": {"scale": 65536.0, "growth_factor": 2.0}}}},
    lambda vae, var: {"state_dict": vae},
    lambda vae, var: {"model": var, "optimizer": {"state": {}}, "scaler": None},
], ids=["trainer", "with optimizer and scaler", "state_dict", "model"])  # fmt: skip
def test_whole_checkpoints_of_a_trainer(wrap, tmp_path, states, pair):
    content = wrap(*states)
    torch.save(content, path := tmp_path / "ar-ckpt-last.pth")
    alone = {"state_dict": (path, None), "model": (None, path)}
    assert_loads_as(next((alone[k] for k in alone if k in content), (path, path)), pair)


def test_derived_buffers_are_neither_needed_nor_kept(states, pair):
    derived = {"attn_bias_for_masking", "lvl_1L", "zero_k_bias", "ema_vocab_hit_SV"}
    bare = [{k: v for k, v in state.items() if k.rpartition(".")[2] not in derived}
            for state in states]  # fmt: skip
    assert len(bare[0]) == len(states[0]) - 1 and len(bare[1]) == len(states[1]) - 3
    odd = [bare[0] | {"quantize.ema_vocab_hit_SV": torch.zeros(99, 2)},
           bare[1] | {"attn_bias_for_masking": torch.zeros(1, 1, 7, 7), "lvl_1L": torch.zeros(1, 7),
                      "blocks.0.attn.zero_k_bias": torch.ones(3)}]  # fmt: skip
    for given in (bare, odd):
        assert_loads_as(given, pair)
    assert "attn_bias_for_masking" not in states[1]


def test_the_given_state_dict_is_left_alone(states):
    before = [{k: v.clone() for k, v in state.items()} for state in states]
    loaded = load_official(*states, TOK.sizes)
    written = to_official(*loaded)
    with torch.no_grad():
        for model in loaded:
            for p in model.parameters():
                p.zero_()
    for given, kept, own in zip(states, before, written):
        assert_equal_states(given, kept)
        assert_equal_states(own, kept)


def test_half_precision_becomes_float32(states, pair):
    halved = [{k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
              for state in states]  # fmt: skip
    for model, exact in zip(load_official(*halved, TOK.sizes), pair):
        for name, value in model.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, exact.state_dict()[name].bfloat16().float()), name


# ---------------------------------------------------------------------------------------- bad input


def refused(given, sizes=TOK.sizes, **options):
    return message(load_official, *given, sizes, **options)


def test_all_that_does_not_fit_is_named_in_one_error(states):
    vae, var = states
    del var["blocks.1.ffn.fc2.bias"], var["head_nm.ada_lin.1.weight"]
    var |= {"surprise": torch.zeros(2), "class_emb.weight": torch.zeros(6, 63),
            "blocks.0.attn.proj.weight": torch.zeros(64, 65), "epoch": 3,
            "word_embed.bias": torch.zeros(64, dtype=torch.long)}  # fmt: skip
    line = refused((None, var))
    for part in ("missing blocks.1.ffn.fc2.bias", "missing head_nm.ada_lin.1.weight",
                 "unknown surprise", "class_emb.weight is (6, 63), expected (6, 64)",
                 "blocks.0.attn.proj.weight is (64, 65), expected (64, 64)", "epoch is a int",
                 "word_embed.bias is torch.int64"):  # fmt: skip
        assert part in line
    vae |= {"decoder.up.0.block.0.conv1.bias": torch.zeros(31), "decoder.odd": torch.zeros(1)}
    del vae["encoder.norm_out.bias"], vae["quantize.quant_resi.qresi_ls.2.weight"]
    line = refused((vae, None))
    for part in ("decoder.up.0.block.0.conv1.bias is (31,), expected (32,)", "unknown decoder.odd",
                 "missing encoder.norm_out.bias",
                 "missing quantize.quant_resi.qresi_ls.2.weight"):  # fmt: skip
        assert part in line


@pytest.mark.parametrize("which", [0, 1])
def test_every_single_tensor_is_needed(which, states):
    """Among them the scale of q and k of one block, where another block has one."""
    derived = ("lvl_1L", "zero_k_bias", "ema_vocab_hit_SV")
    for name in [n for n in states[which] if not n.endswith(derived)]:
        given = [None, None]
        given[which] = {k: v for k, v in states[which].items() if k != name}
        assert f"missing {name}" in refused(given)


def test_without_any_scale_of_q_and_k_attention_is_not_normalised(states):
    bare = {k: v for k, v in states[1].items() if "scale_mul_1H11" not in k}
    assert not load_official(None, bare, TOK.sizes, heads=4)[1].config.qk_norm
    assert load_official(None, bare, TOK.sizes)[1].config.heads == 1  # the official rule
    assert "heads is 2, but" in refused((None, states[1]), heads=2)
    narrow = to_official(None, random_model(replace(MODEL, width=24, qk_norm=False)))[1]
    assert "width 24 is no multiple of 64" in refused((None, narrow))


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 3), (2, 2, 4), (1, 1, 2, 4)])
def test_a_changed_schedule_fits_the_tokenizer_alone(sizes, states):
    assert "may not be those it was trained with" in refused((None, states[1]), sizes)
    assert "may not be those it was trained with" in refused(states, sizes)
    tok, _ = load_official(states[0], None, sizes)
    tokens = tok.encode(torch.zeros(1, 3, *tok.image_size))
    assert [t.shape[-1] for t in tokens] == list(sizes)


def test_the_wrong_one_or_none(states):
    vae, var = states
    assert "it is not the vae" in refused((var, None))
    assert "it is not the var" in refused((None, vae))
    assert "a list is no file" in refused(([vae], None))
    assert "missing" in refused(({}, None))
    with pytest.raises(ValueError, match="patch is 2"):
        to_official(MultiScaleVQVAE(replace(TOK, patch=2)), None)


def test_damaged_and_foreign_files(tmp_path, states):
    def check(path, words):
        line = refused((None, path))
        assert str(path) in line and words in line

    for name, write in (("a.pth", torch.save), ("a.safetensors", save_file)):
        write(states[1], tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"short{name}").write_bytes(content[: len(content) // 2])
        check(tmp_path / f"short{name}", "damaged")
    (tmp_path / "empty.pth").touch()
    check(tmp_path / "empty.pth", "damaged")
    torch.save(argparse.Namespace(a=1), tmp_path / "object.pth")
    check(tmp_path / "object.pth", "does not unpickle")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    check(tmp_path / "list.pth", "holds a list")
    check(tmp_path, "is no file")
    check(tmp_path / "none.pth", "is no file")
