"""Official checkpoints: both directions, what is read off the tensors, and what is refused."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_case import SIZES, models, official_vae, official_var
from safetensors.torch import save_file

from varmini import VAR, MultiScaleVQVAE, TokenizerConfig, VARConfig
from varmini.official.checkpoints import load_official, to_official

TOK = TokenizerConfig(sizes=(1, 2, 4), vocab_size=12, code_channels=4, width=32, multipliers=(1, 2),
                      num_res_blocks=1)
MODEL = VARConfig(depth=2, width=64, heads=4, sizes=(1, 2, 4), vocab_size=12, code_channels=4,
                  num_classes=5)


def random_model(cls: type, config: TokenizerConfig | VARConfig) -> MultiScaleVQVAE | VAR:
    """A model none of whose tensors is zero or equal to another's."""
    generator = torch.Generator().manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def assert_equal_models(a: torch.nn.Module, b: torch.nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def assert_equal_states(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture
def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return to_official(random_model(MultiScaleVQVAE, TOK), random_model(VAR, MODEL))


# ----------------------------------------------------------------------------- there and back again

@pytest.mark.parametrize("config", [
    TOK,
    replace(TOK, num_phi=0),
    replace(TOK, num_phi=1),
    replace(TOK, num_phi=2),
    replace(TOK, num_phi=3),  # one per scale
    replace(TOK, sizes=(1, 2, 3, 4), num_phi=4),
    replace(TOK, sizes=((1, 2), (2, 4)), image_channels=1),
    replace(TOK, attention=False, multipliers=(1, 1, 2, 3)),
    replace(TOK, multipliers=(2, 3), num_res_blocks=2),
], ids=str)
def test_tokenizer_round_trip_is_bit_equal(config: TokenizerConfig) -> None:
    tok = random_model(MultiScaleVQVAE, config)
    state, nothing = to_official(tok, None)
    again, none = load_official(state, None, config.sizes)
    assert nothing is None and none is None
    assert again.config == config
    assert_equal_models(tok, again)
    assert not again.training and again.quantizer.codebook.weight.requires_grad


@pytest.mark.parametrize("config", [
    MODEL,
    replace(MODEL, shared_adaln=True),
    replace(MODEL, qk_norm=False),
    replace(MODEL, depth=1, mlp_ratio=1.5),
    replace(MODEL, depth=11, width=24, heads=3),
    replace(MODEL, sizes=((2, 1), (2, 3))),
], ids=str)
def test_transformer_round_trip_is_bit_equal(config: VARConfig) -> None:
    var = random_model(VAR, config)
    state = to_official(None, var)[1]
    again = load_official(None, state, config.sizes, heads=None if config.qk_norm else 4)[1]
    assert again.config == config
    assert_equal_models(var, again)
    inputs = torch.randn(2, var.schedule.num_tokens - var.schedule.tokens_per_scale[0], 4)
    labels = torch.tensor([0, config.num_classes])
    with torch.no_grad():  # the mask and the level ids are in no checkpoint
        assert torch.equal(var(labels, inputs), again(labels, inputs))


def test_official_to_ours_to_official_is_bit_equal() -> None:
    vae, var = to_official(*models())
    assert_equal_states(vae, official_vae())
    assert_equal_states(var, official_var())


def test_one_phi_per_scale_and_one_phi_have_their_official_names() -> None:
    for phis, name in ((1, "qresi"), (2, "qresi_ls.1"), (3, "2")):
        state, _ = to_official(random_model(MultiScaleVQVAE, replace(TOK, num_phi=phis)), None)
        assert f"quantize.quant_resi.{name}.weight" in state


def test_as_many_partially_shared_phis_as_scales() -> None:
    tok = random_model(MultiScaleVQVAE, replace(TOK, num_phi=3))
    state = {k.replace("quant_resi.", "quant_resi.qresi_ls."): v
             for k, v in to_official(tok, None)[0].items()}
    assert_equal_models(tok, load_official(state, None, TOK.sizes)[0])


def test_sizes_are_read_off_the_golden_tensors() -> None:
    tok, var = models()
    assert tok.config == TokenizerConfig(sizes=SIZES, vocab_size=64, code_channels=8, width=32)
    assert var.config == VARConfig(depth=2, width=64, heads=2, sizes=SIZES, vocab_size=64,
                                   code_channels=8, num_classes=10)


def test_heads_follow_the_official_rule_without_qk_normalisation() -> None:
    state = to_official(None, random_model(VAR, replace(MODEL, width=128, qk_norm=False)))[1]
    assert load_official(None, state, MODEL.sizes)[1].config.heads == 2


# ------------------------------------------------------------------------- files, prefixes, buffers

@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_files(ending: str, tmp_path: Path, states) -> None:
    paths = tmp_path / f"vae{ending}", str(tmp_path / f"var{ending}")
    for state, path in zip(states, paths):
        torch.save(state, path) if ending == ".pth" else save_file(state, path)
    for ours, theirs in zip(load_official(*paths, TOK.sizes), load_official(*states, TOK.sizes)):
        assert_equal_models(ours, theirs)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.",
                                    "module._orig_mod."])
def test_prefixes_of_ddp_and_compile(prefix: str, states) -> None:
    wrapped = [{prefix + k: v for k, v in state.items()} for state in states]
    for ours, theirs in zip(load_official(*wrapped, TOK.sizes), load_official(*states, TOK.sizes)):
        assert_equal_models(ours, theirs)


def test_wrapped_blocks_inside_a_name(states) -> None:
    middle = {k.replace("blocks.1.", "blocks.1._checkpoint_wrapped_module._orig_mod."): v
              for k, v in states[1].items()}
    assert_equal_models(load_official(None, middle, TOK.sizes)[1],
                        load_official(None, states[1], TOK.sizes)[1])


def test_a_training_checkpoint_of_the_official_trainer(tmp_path: Path, states) -> None:
    vae, var = states
    torch.save({"epoch": 3, "trainer": {"config": {}, "vae_local": vae, "var_wo_ddp": var,
                                        "var_opt": {"state": {}}}}, tmp_path / "ar-ckpt-last.pth")
    both = [tmp_path / "ar-ckpt-last.pth"] * 2
    for ours, theirs in zip(load_official(*both, TOK.sizes), load_official(*states, TOK.sizes)):
        assert_equal_models(ours, theirs)


def test_derived_buffers_are_neither_needed_nor_kept(states) -> None:
    derived = {"attn_bias_for_masking", "lvl_1L", "zero_k_bias", "ema_vocab_hit_SV"}
    bare = [{k: v for k, v in state.items() if k.rpartition(".")[2] not in derived}
            for state in states]
    assert len(bare[0]) == len(states[0]) - 1 and len(bare[1]) == len(states[1]) - 3
    odd = [bare[0] | {"quantize.ema_vocab_hit_SV": torch.zeros(99, 2)},
           bare[1] | {"attn_bias_for_masking": torch.zeros(1, 1, 7, 7), "lvl_1L": torch.zeros(1, 7),
                      "blocks.0.attn.zero_k_bias": torch.ones(3)}]
    expected = load_official(*states, TOK.sizes)
    for given in (bare, odd):
        for ours, theirs in zip(load_official(*given, TOK.sizes), expected):
            assert_equal_models(ours, theirs)
    assert "attn_bias_for_masking" not in states[1]


def test_the_given_state_dict_is_left_alone(states) -> None:
    before = [{k: v.clone() for k, v in state.items()} for state in states]
    models_ = load_official(*states, TOK.sizes)
    written = to_official(*models_)
    with torch.no_grad():
        for model in models_:
            for p in model.parameters():
                p.zero_()
    for given, kept, own in zip(states, before, written):
        assert_equal_states(given, kept)
        assert_equal_states(own, kept)


def test_half_precision_becomes_float32(states) -> None:
    halved = [{k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
              for state in states]
    for model, exact in zip(load_official(*halved, TOK.sizes), load_official(*states, TOK.sizes)):
        for name, value in model.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, exact.state_dict()[name].bfloat16().float()), name


# ---------------------------------------------------------------------------------------- bad input

def test_all_that_does_not_fit_is_named_in_one_error(states) -> None:
    vae, var = states
    del var["blocks.1.ffn.fc2.bias"], var["head_nm.ada_lin.1.weight"]
    var |= {"surprise": torch.zeros(2), "class_emb.weight": torch.zeros(6, 63),
            "blocks.0.attn.proj.weight": torch.zeros(64, 65), "epoch": 3,
            "word_embed.bias": torch.zeros(64, dtype=torch.long)}
    with pytest.raises(ValueError) as error:
        load_official(None, var, TOK.sizes)
    message = str(error.value)
    for part in ("missing blocks.1.ffn.fc2.bias", "missing head_nm.ada_lin.1.weight",
                 "unknown surprise", "class_emb.weight is (6, 63), expected (6, 64)",
                 "blocks.0.attn.proj.weight is (64, 65), expected (64, 64)", "epoch is a int",
                 "word_embed.bias is torch.int64"):
        assert part in message
    assert "\n" not in message

    vae |= {"decoder.up.0.block.0.conv1.bias": torch.zeros(31), "decoder.odd": torch.zeros(1)}
    del vae["encoder.norm_out.bias"], vae["quantize.quant_resi.qresi_ls.2.weight"]
    with pytest.raises(ValueError) as error:
        load_official(vae, None, TOK.sizes)
    for part in ("decoder.up.0.block.0.conv1.bias is (31,), expected (32,)", "unknown decoder.odd",
                 "missing encoder.norm_out.bias", "missing quantize.quant_resi.qresi_ls.2.weight"):
        assert part in str(error.value)


@pytest.mark.parametrize("which", [0, 1])
def test_every_single_tensor_is_needed(which: int, states) -> None:
    def load(state: dict) -> None:
        load_official(*(state if i == which else None for i in range(2)), TOK.sizes)

    derived = ("lvl_1L", "zero_k_bias", "ema_vocab_hit_SV")
    for name in [n for n in states[which] if not n.endswith(derived)]:
        with pytest.raises(ValueError, match="missing") as error:
            load({k: v for k, v in states[which].items() if k != name})
        assert f"missing {name}" in str(error.value)


def test_two_tensors_that_contradict_each_other_are_both_named(states) -> None:
    states[1]["head.weight"] = torch.zeros(13, 64)
    with pytest.raises(ValueError, match="unclear: 13 in head.weight, 12 in head.bias"):
        load_official(None, states[1], TOK.sizes)


@pytest.mark.parametrize("sizes", [(1, 2), (1, 2, 3), (2, 2, 4), (1, 1, 2, 4)])
def test_a_schedule_that_does_not_fit_the_weights(sizes: tuple[int, ...], states) -> None:
    with pytest.raises(ValueError, match="sizes=.* may not be those it was trained with"):
        load_official(None, states[1], sizes)


def test_the_wrong_one_or_none(states) -> None:
    vae, var = states
    with pytest.raises(ValueError, match="so it is not the vae"):
        load_official(var, None, TOK.sizes)
    with pytest.raises(ValueError, match="so it is not the var"):
        load_official(None, vae, TOK.sizes)
    with pytest.raises(ValueError, match="both None"):
        load_official(None, None)
    with pytest.raises(ValueError, match="vae is a list"):
        load_official([vae], None)
    with pytest.raises(ValueError, match="missing"):
        load_official({}, None)
    other = to_official(None, random_model(VAR, replace(MODEL, vocab_size=16)))[1]
    with pytest.raises(ValueError, match="var reads 16 codes of 4 channels, but vae writes 12"):
        load_official(vae, other, TOK.sizes)


def test_heads_that_contradict_or_cannot_be_told(states) -> None:
    with pytest.raises(ValueError, match="heads is 2, but .* has 4"):
        load_official(None, states[1], TOK.sizes, heads=2)
    narrow = to_official(None, random_model(VAR, replace(MODEL, width=24, qk_norm=False)))[1]
    with pytest.raises(ValueError, match="width 24 .* give heads="):
        load_official(None, narrow, TOK.sizes)


def test_damaged_and_foreign_files(tmp_path: Path, states) -> None:
    def refuse(path: Path, match: str) -> None:
        with pytest.raises(ValueError, match=match) as error:
            load_official(None, path, TOK.sizes)
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    for name, write in (("a.pth", torch.save), ("a.safetensors", save_file)):
        write(states[1], tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"short{name}").write_bytes(content[:len(content) // 2])
        refuse(tmp_path / f"short{name}", "damaged")
    (tmp_path / "empty.pth").touch()
    refuse(tmp_path / "empty.pth", "damaged")
    torch.save(argparse.Namespace(a=1), tmp_path / "object.pth")
    refuse(tmp_path / "object.pth", "does not unpickle")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    refuse(tmp_path / "list.pth", "holds a list")
    refuse(tmp_path, "is no file")
    refuse(tmp_path / "none.pth", "is no file")


def test_folded_pixels_have_no_official_form() -> None:
    with pytest.raises(ValueError, match="patch is 2"):
        to_official(MultiScaleVQVAE(replace(TOK, patch=2)), None)
