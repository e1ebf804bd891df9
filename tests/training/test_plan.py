"""The planner's memory model against real allocations, its presets, and the command."""

import contextlib
import csv
import importlib.util
import math
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import make_tokenizer, make_var, random_images
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from varmini import ScaleSchedule, TokenizerConfig, quicken
from varmini.cli.main import main
from varmini.training.codebook import code_diversity
from varmini.training.flops import exact_parameters
from varmini.training.optim import averaged, learning_rate_share, weight_decay_at
from varmini.training.planner import (
    GPUS,
    USABLE,
    cache_memory,
    find_fit,
    gpu,
    hours,
    perceptual_memory,
    tokenizer_memory,
    var_memory,
    way_memory,
)
from varmini.training.presets import PRESETS

SCHEDULE = ScaleSchedule((1, 2, 3, 4, 6, 8))
BATCH = 8
WIDE = dict(depth=3, width=128, heads=4, vocab_size=256, code_channels=8, num_classes=5)
TIGHT = 0.05
"""Relative error allowed where the model names each tensor."""


def half(on: bool):
    return torch.autocast("cpu", torch.bfloat16) if on else contextlib.nullcontext()


def loss_of(var, bf16):
    """The loss of a training step's forward pass on random tokens."""
    length, c = var.schedule.num_tokens, var.config
    targets = torch.randint(c.vocab_size, (BATCH, length))
    inputs = torch.randn(BATCH, length - 1, c.code_channels)
    with half(bf16):
        logits = var(torch.zeros(BATCH, dtype=torch.long), inputs)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def kept_bytes(work, module) -> int:
    """Bytes that autograd keeps for the backward pass of `work`, besides the module's own."""
    own = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address returns
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = work()
    del result
    return sum(size for address, (size, _) in kept.items() if address not in own)


class Made(TorchDispatchMode):
    """Bytes of the tensors that operations made: alive `now`, and the `most` at once.

    The module's own weights, which views of them lead to, do not count.
    """

    def __init__(self, module) -> None:
        super().__init__()
        own = (*module.parameters(), *module.buffers())
        self.live = {t.untyped_storage()._cdata: 0 for t in own}
        self.now, self.most = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not tensor.is_mkldnn:  # oneDNN hides its own
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage) -> None:
        if storage._cdata not in self.live:
            self.live[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, address) -> None:
        self.now -= self.live.pop(address)


def recomputing(var):
    """Keeps only the blocks' inputs."""
    for block in var.blocks:
        inner = block.forward
        block.forward = lambda *a, inner=inner: checkpoint(inner, *a, use_reentrant=False)
    return var


# --------------------------------------------------------------------------------- the memory model


def test_weights_gradients_optimizer_and_average_are_exact() -> None:
    var = make_var(SCHEDULE, **WIDE)
    parts = var_memory(var.config, BATCH)
    optimizer = torch.optim.AdamW(var.parameters())
    loss_of(var, False).backward()
    optimizer.step()
    assert parts["weights"] == sum(p.nbytes for p in var.parameters())
    assert parts["gradients"] == sum(p.grad.nbytes for p in var.parameters())
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert parts["optimizer"] == sum(m.nbytes for m in moments)
    ema = averaged(var, 0.9)
    assert parts["average"] == sum(p.nbytes for p in ema.module.parameters())


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("options", [{}, {"mlp_ratio": 2.0, "heads": 2}, {"shared_adaln": True}])
def test_activations_of_the_transformer(bf16, options, cpu, monkeypatch) -> None:
    # What compiles takes the GPU's way through the attention, here on a CPU.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: not cpu)
    var = quicken(make_var(SCHEDULE, **WIDE | options)).train()
    parts = var_memory(var.config, BATCH, bf16=bf16, cpu=cpu)
    # Of the logits' 16 bytes the log-softmax alone, 4, is autograd's.
    wanted = parts["activations"] + parts["bf16 copies"] + parts["logits"] / 4
    assert kept_bytes(lambda: loss_of(var, bf16), var) == pytest.approx(wanted, rel=TIGHT)


def test_recomputing_keeps_the_inputs_of_the_blocks() -> None:
    var = recomputing(quicken(make_var(SCHEDULE, **WIDE | {"depth": 6})).train())
    parts = var_memory(var.config, BATCH, bf16=False, cpu=True, recompute=True)
    depths = (var_memory(replace(var.config, depth=d), BATCH, bf16=False, cpu=True) for d in (1, 2))
    one, two = (memory["activations"] for memory in depths)
    # Between the passes no block is alive; of the logits' 16 bytes the log-softmax is there, 4.
    wanted = parts["activations"] - (two - one) + parts["logits"] / 4
    made = Made(var)
    with made:
        loss = loss_of(var, False)
    assert made.now == pytest.approx(wanted, rel=TIGHT)
    del loss


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_peak_of_a_whole_step(bf16, recompute) -> None:
    """The parts do not all peak in the same moment, so their sum is a bound from above."""
    var = make_var(SCHEDULE, **WIDE).train()
    parts = var_memory(var.config, BATCH, bf16=bf16, cpu=True, recompute=recompute)
    made = Made(var)
    with made:
        loss_of(recomputing(var) if recompute else var, bf16).backward()
    wanted = sum(parts[k] for k in ("activations", "gradients", "bf16 copies", "logits"))
    assert (0.5 if recompute else 0.75) * wanted < made.most < 1.05 * wanted


@pytest.mark.parametrize(
    "options", [{}, {"multipliers": (1, 2), "num_res_blocks": 2}, {"sizes": (1, 4), "patch": 1}]
)
def test_activations_of_the_tokenizer(options) -> None:
    tok = make_tokenizer(**options).train()
    images = random_images(BATCH, tok.config.image_channels, tok.image_size)
    parts = tokenizer_memory(tok.config, BATCH, bf16=False)

    def forward():
        result = tok(images)
        spread = code_diversity(tok.quantizer, result.features, result.tokens)
        return result.images.square().mean() + result.loss + spread

    wanted = parts["activations"] + parts["quantizer"]
    assert kept_bytes(forward, tok) == pytest.approx(wanted, rel=0.1)
    assert parts["weights"] == sum(p.nbytes for p in tok.parameters())
    assert (
        tokenizer_memory(tok.config, BATCH, recompute=True)["activations"]
        < (tokenizer_memory(tok.config, BATCH)["activations"])
    )


def test_cache() -> None:
    var = quicken(make_var(SCHEDULE, **WIDE))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x, modulations, head = var.condition(torch.zeros(2 * BATCH, dtype=torch.long))
        cache = var.new_cache(2 * BATCH)
        var.hidden(0, x, modulations, head, cache)
    held = (*cache.keys.values(), *cache.values.values())
    assert cache_memory(var.config, BATCH) == sum(t.nbytes for t in held)


def test_sharding_divides_what_it_shards() -> None:
    config = PRESETS["imagenet256-d30"].var.model
    whole, parts = var_memory(config, 4), var_memory(config, 4, shards=8)
    for name in ("weights", "gradients", "optimizer", "average"):
        assert parts[name] == whole[name] / 8
    for name in ("activations", "logits"):
        assert parts[name] == whole[name]
    assert 0 < parts["gathered"] < whole["weights"] + whole["gradients"]


# ------------------------------------------------------------------------------- fit, time, reports


def test_a_reported_out_of_memory_is_foreseen() -> None:
    """FoundationVision/VAR #142: d20, batch 768, does not fit on 8 H100; d16's recipe does."""
    for name, fits in (("imagenet256-d20", False), ("imagenet256-d16", True)):
        run = PRESETS[name].var
        parts = way_memory(run.model, run.batch_size, 8, ("ddp", False), 1, 0.0)
        assert (sum(parts.values()) <= GPUS["h100"].memory) == fits


def test_the_way_out_fits_and_nothing_cheaper_does() -> None:
    run = PRESETS["imagenet256-d30"].var
    for name, card in GPUS.items():
        fit = find_fit(run.model, run.batch_size, 8, card, 0.0)
        parts = way_memory(run.model, run.batch_size, fit.gpus, fit.way, fit.accumulate, 0.0)
        assert sum(parts.values()) <= USABLE * card.memory, name
    tiny = replace(GPUS["4090"], memory=1e8)
    assert find_fit(run.model, run.batch_size, 8, tiny, 0.0) is None


@pytest.mark.parametrize("name", [n for n in PRESETS if n.startswith("imagenet")])
def test_presets_fit_eight_gpus_of_80_gb(name) -> None:
    run, tok = PRESETS[name].var, PRESETS[name].tokenizer
    way, room = (run.parallel, run.recompute), USABLE * GPUS["h100"].memory
    parts = way_memory(run.model, run.batch_size, 8, way, run.accumulate, 0.5e9)
    assert sum(parts.values()) <= room
    height, width = (16 * side for side in ScaleSchedule(tok.model.sizes).grids[-1])
    images = tok.batch_size // 8
    need = sum(tokenizer_memory(tok.model, images, recompute=tok.recompute).values())
    assert need + perceptual_memory((height, width), images) <= room


def test_hours_are_arithmetic_over_speed() -> None:
    assert hours(3.6e15, replace(gpu("a100"), peak=1e12), 2, 0.5) == 1.0


# -------------------------------------------------------------------------------------- the recipes


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "lr", "gamma", "final", "decay"),
    [
        ("imagenet256-d16", 200, 768, 3e-4, 1e-3, 0.1, 0.05),
        ("imagenet256-d20", 250, 768, 3e-4, 1e-3, 0.1, 0.05),
        ("imagenet256-d24", 350, 768, 2.4e-4, 1e-4, 0.01, 0.05),
        ("imagenet256-d30", 350, 1024, 3.2e-4, 1e-5, 0.01, 0.08),
        ("imagenet512-d36", 350, 768, 2.4e-4, 5e-6, 0.01, 0.08),
    ],
)
def test_recipes_are_the_official_commands(name, epochs, batch, lr, gamma, final, decay) -> None:
    """README of FoundationVision/VAR at 78b9539: --ep, --bs, --tblr, --alng, --wpe, --twde."""
    run, depth = PRESETS[name].var, int(name.split("-d")[1])
    assert (run.model.depth, run.model.width, run.model.heads) == (depth, 64 * depth, depth)
    assert run.model.drop_path == 0.1 * depth / 24 and run.model.init_gamma == gamma
    assert run.images == epochs * 1_281_167 and run.batch_size == batch
    assert run.lr == pytest.approx(lr) and run.final == final and run.clip == 2.0
    assert not run.flip and run.data == "imagenet" and run.model.label_dropout == 0.1
    total = 10_000
    end = weight_decay_at(total - 1, total, run.weight_decay, run.final_weight_decay)
    assert run.weight_decay == 0.05 and end == pytest.approx(decay)
    # --sche lin0: up for 1/50, flat for 5 % of the rest, then down in a line
    shares = [
        learning_rate_share(step, total, run.warmup, run.decay, run.final) for step in range(total)
    ]
    assert shares[99] == pytest.approx(0.5) and shares[200] == shares[689] == 1.0
    assert shares[700] < 1.0 and shares[-1] == pytest.approx(final, abs=2e-4)
    assert shares[5345] == pytest.approx((1 + final) / 2, abs=2e-4)


def test_stage_1_is_the_official_network() -> None:
    for name in (n for n in PRESETS if n.startswith("imagenet")):
        run = PRESETS[name].tokenizer
        assert run.model == replace(TokenizerConfig(), sizes=PRESETS[name].var.model.sizes)
        assert run.perceptual_network == "lpips" and run.adversarial > 0
        assert exact_parameters(run.model) == 108_948_355


# -------------------------------------------------------------------------------------- the command


def run(capsys, *args) -> tuple[int, str, str]:
    code = main(["plan", *args])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_plan(name, capsys) -> None:
    code, text, error = run(capsys, name, "--gpus", "8", "--gpu", "h100")
    assert code == 0 and not error
    for word in ("parameters", "FLOPs a step", "activations", "key-value cache", "USD", "verdict"):
        assert word in text


def test_price_and_utilisation_scale_the_answer(capsys) -> None:
    text = run(capsys, "imagenet256-d16", "--price", "0", "--utilisation", "0.42")[1]
    assert " 0 USD at 42% of the peak" in text and "0.00 USD an hour" in text


def test_one_small_gpu_is_told_what_would_fit(capsys) -> None:
    text = run(capsys, "imagenet256-d30", "--gpus", "1", "--gpu", "4090")[1]
    assert "does not fit on 1 GPU(s)" in text and "do with --parallel fsdp" in text
    assert "recomputing, does not fit; --batch-size 27 does" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["imagenet256-d17"], "unknown preset 'imagenet256-d17'"),
        (["imagenet256-d16", "--gpu", "tpu"], "unknown GPU 'tpu', expected one of: a100"),
        (["imagenet256-d16", "--gpus", "0"], "gpus is 0, expected at least 1"),
        (["imagenet256-d16", "--gpus", "7"], "7 GPUs cannot share a batch of 256 evenly"),
        (["imagenet256-d16", "--utilisation", "1.5"], "utilisation is 1.5"),
        (["imagenet256-d16", "--price", "-1"], "price is -1.0"),
    ],
)
def test_bad_input_is_one_line(args, message, capsys) -> None:
    code, text, error = run(capsys, *args)
    assert code == 2 and not text
    assert error.startswith("varmini: error:") and error.count("\n") == 1 and message in error


# -------------------------------------------------------------------------------------- the dry run

ROOT = Path(__file__).resolve().parents[2]


def dry_run():
    """The script, as a module."""
    path = ROOT / "scripts" / "evidence" / "dry_run.py"
    spec = importlib.util.spec_from_file_location("dry_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small_preset():
    """The d16 preset with tiny networks, its stages and settings as they are."""
    sizes, whole = (1, 2, 3, 4), PRESETS["imagenet256-d16"]
    shape = dict(sizes=sizes, vocab_size=32, code_channels=4)
    tok = replace(whole.tokenizer.model, **shape, width=32, multipliers=(1, 2), num_res_blocks=1)
    var = replace(whole.var.model, **shape, depth=2, width=32, heads=2, num_classes=300)
    return replace(
        whole, tokenizer=replace(whole.tokenizer, model=tok), var=replace(whole.var, model=var)
    )


def test_dry_run_on_the_meta_device() -> None:
    rows = list(dry_run().on_meta("small", small_preset()))
    assert [row["output"] for row in rows] == ["32x3x8x8", "96x30x32"]
    assert all(row["device"] == "meta" for row in rows)


def test_dry_run_on_the_cpu() -> None:
    encoded, trained, drawn = dry_run().on_cpu("small", small_preset())
    assert encoded["output"] == "1x1+2x2+3x3+4x4" and drawn["output"] == "1x3x8x8"
    # The head starts small: at first all codes are about as likely.
    assert float(trained["loss"]) == pytest.approx(math.log(32), abs=0.1)
    assert trained["output"] == "1x30x32" and float(trained["peak_gb"]) > 0


def test_the_committed_dry_run_covers_every_preset() -> None:
    with open(ROOT / "results" / "dry_run.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in (n for n in PRESETS if n.startswith("imagenet")):
        mine = [r for r in rows if r["preset"] == name and r["device"] == "meta"]
        assert [r["what"].split(":")[0] for r in mine] == ["tokenizer", "var"]
        assert int(mine[1]["parameters"]) == exact_parameters(PRESETS[name].var.model)
        assert mine[1]["output"].endswith(
            f"x{ScaleSchedule(PRESETS[name].var.model.sizes).num_tokens}x4096"
        )
    true = [r for r in rows if r["device"] == "cpu"]
    assert [r["preset"] for r in true] == ["imagenet256-d16"] * 3
    assert float(true[1]["loss"]) == pytest.approx(math.log(4096), abs=0.1)
    assert 0.75 < float(true[1]["peak_gb"]) / float(true[1]["planned_gb"]) < 1.25
    assert all(r["commit"] and r["command"] and r["hardware"] and r["date"] for r in rows)
