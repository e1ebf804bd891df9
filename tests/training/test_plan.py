"""The planner's memory model against real allocations, its presets, and the command."""

import math
import runpy
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import make_var
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from varmini import ScaleSchedule, TokenizerConfig, quicken
from varmini.cli.main import main
from varmini.runtime.tables import read_rows
from varmini.training.flops import exact_parameters
from varmini.training.optim import averaged, blockwise, learning_rate_share, weight_decay_at
from varmini.training.planner import (
    GPUS,
    USABLE,
    find_fit,
    var_memory,
    way_memory,
)
from varmini.training.presets import PRESETS

SCHEDULE = ScaleSchedule((1, 2, 3, 4, 6, 8))
BATCH = 8
WIDE = dict(depth=3, width=128, heads=4, vocab_size=256, code_channels=8, num_classes=5)
TIGHT = 0.05
"""Relative error allowed where the model names each tensor."""


def loss_of(var, bf16):
    """The loss of a training step's forward pass on random tokens."""
    length, c = var.schedule.num_tokens, var.config
    targets = torch.randint(c.vocab_size, (BATCH, length))
    inputs = torch.randn(BATCH, length - 1, c.code_channels)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = var(torch.zeros(BATCH, dtype=torch.long), inputs)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


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


def kept_bytes(work, module) -> int:
    """Bytes that are there between the forward pass `work` and the backward pass."""
    made = Made(module)
    with made:
        loss = work()
    assert loss.requires_grad
    return made.now


def test_weights_gradients_optimizer_and_average_are_exact() -> None:
    var = make_var(SCHEDULE, **WIDE)
    parts = var_memory(var.config, BATCH)
    optimizer = torch.optim.AdamW(var.parameters())
    loss_of(var, False).backward()
    optimizer.step()
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    held = {
        "weights": list(var.parameters()),
        "gradients": [p.grad for p in var.parameters()],
        "optimizer": moments,
        "average": list(averaged(var, 0.9).module.parameters()),
    }
    assert {name: sum(t.nbytes for t in held[name]) for name in held} == {k: parts[k] for k in held}


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("options", [{}, {"mlp_ratio": 2.0, "heads": 2, "shared_adaln": True}])
def test_activations_of_the_transformer(bf16, options, cpu, monkeypatch) -> None:
    # What compiles takes the GPU's way through the attention, here on a CPU.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: not cpu)
    var = quicken(make_var(SCHEDULE, **WIDE | options)).train()
    parts = var_memory(var.config, BATCH, bf16=bf16, cpu=cpu)
    # Of the logits' 16 bytes the log-softmax alone, 4, is autograd's.
    wanted = parts["activations"] + parts["bf16 copies"] + parts["logits"] / 4
    assert kept_bytes(lambda: loss_of(var, bf16), var) == pytest.approx(wanted, rel=TIGHT)


def test_recomputing_keeps_the_inputs_of_the_blocks() -> None:
    var = quicken(make_var(SCHEDULE, **WIDE | {"depth": 6})).train()
    blockwise(var.blocks, recompute=True)
    parts = var_memory(var.config, BATCH, bf16=False, cpu=True, recompute=True)
    depths = (var_memory(replace(var.config, depth=d), BATCH, bf16=False, cpu=True) for d in (1, 2))
    one, two = (memory["activations"] for memory in depths)
    # Between the passes no block is alive; of the logits' 16 bytes the log-softmax is there, 4.
    wanted = parts["activations"] - (two - one) + parts["logits"] / 4
    assert kept_bytes(lambda: loss_of(var, False), var) == pytest.approx(wanted, rel=TIGHT)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_peak_of_a_whole_step(bf16, recompute) -> None:
    """The parts do not all peak in the same moment, so their sum is a bound from above."""
    var = make_var(SCHEDULE, **WIDE).train()
    parts = var_memory(var.config, BATCH, bf16=bf16, cpu=True, recompute=recompute)
    blockwise(var.blocks, recompute=recompute)
    made = Made(var)
    with made:
        loss_of(var, bf16).backward()
    wanted = sum(parts[k] for k in ("activations", "gradients", "bf16 copies", "logits"))
    assert (0.5 if recompute else 0.75) * wanted < made.most < 1.05 * wanted


def test_sharding_divides_what_it_shards() -> None:
    config = PRESETS["imagenet256-d30"].var.model
    whole, parts = var_memory(config, 4), var_memory(config, 4, shards=8)
    for name in ("weights", "gradients", "optimizer", "average"):
        assert parts[name] == whole[name] / 8
    for name in ("activations", "logits"):
        assert parts[name] == whole[name]
    assert 0 < parts["gathered"] < whole["weights"] + whole["gradients"]


@pytest.mark.parametrize(("name", "fits"), [("imagenet256-d20", False), ("imagenet256-d16", True)])
def test_a_reported_out_of_memory_is_foreseen(name, fits) -> None:
    """FoundationVision/VAR #142: d20, batch 768, does not fit on 8 H100; d16's recipe does."""
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
    run = PRESETS[name].var
    way, room = (run.parallel, run.recompute), USABLE * GPUS["h100"].memory
    parts = way_memory(run.model, run.batch_size, 8, way, run.accumulate, 0.5e9)
    assert sum(parts.values()) <= room


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
    dials = total, run.warmup, run.decay, run.final
    shares = [learning_rate_share(step, *dials) for step in range(total)]
    assert shares[99] == pytest.approx(0.5) and shares[200] == shares[689] == 1.0
    assert shares[700] < 1.0 and shares[-1] == pytest.approx(final, abs=2e-4)
    assert shares[5345] == pytest.approx((1 + final) / 2, abs=2e-4)


def test_stage_1_is_the_official_network() -> None:
    for name in (n for n in PRESETS if n.startswith("imagenet")):
        run = PRESETS[name].tokenizer
        assert run.model == replace(TokenizerConfig(), sizes=PRESETS[name].var.model.sizes)
        assert run.perceptual_network == "lpips" and run.adversarial > 0
        assert exact_parameters(run.model) == 108_948_355


WORDS = ("parameters", "FLOPs a step", "activations", "key-value cache", "USD", "verdict")
PLANS = [
    *((f"{name} --gpus 8 --gpu h100", WORDS) for name in PRESETS),
    ("imagenet256-d16 --price 0 --utilisation 0.42", ("0 USD at 42% of", "0.00 USD an hour")),
    ("imagenet256-d30 --gpus 1 --gpu 4090",
     ("does not fit on 1 GPU(s)", "do with --parallel fsdp")),
]  # fmt: skip


@pytest.mark.parametrize(("args", "words"), PLANS)
def test_plans(args, words, capsys) -> None:
    assert main(["plan", *args.split()]) == 0
    told = capsys.readouterr()
    assert not told.err and [word for word in words if word not in told.out] == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("imagenet256-d17", "unknown preset 'imagenet256-d17'"),
        ("imagenet256-d16 --gpu tpu", "unknown GPU 'tpu', expected one of: a100"),
        ("imagenet256-d16 --gpus 0", "gpus is 0, expected at least 1"),
        ("imagenet256-d16 --gpus 7", "7 GPUs cannot share a batch of 256 evenly"),
        ("imagenet256-d16 --utilisation 1.5", "utilisation is 1.5"),
        ("imagenet256-d16 --price -1", "price is -1.0"),
    ],
)
def test_bad_input_is_one_line(args, message, capsys) -> None:
    code, (text, error) = main(["plan", *args.split()]), capsys.readouterr()
    assert code == 2 and not text
    assert error.startswith("varmini: error:") and error.count("\n") == 1 and message in error


ROOT = Path(__file__).resolve().parents[2]


def test_dry_run() -> None:
    """The d16 preset with tiny networks, its stages and settings as they are."""
    script = runpy.run_path(str(ROOT / "scripts/evidence/dry_run.py"))
    whole = PRESETS["imagenet256-d16"]
    shape = dict(sizes=(1, 2, 3, 4), vocab_size=32, code_channels=4, width=32)
    tok = replace(whole.tokenizer.model, **shape, multipliers=(1, 2), num_res_blocks=1)
    var = replace(whole.var.model, **shape, depth=2, heads=2, num_classes=300)
    stages = replace(whole.tokenizer, model=tok), replace(whole.var, model=var)
    small = replace(whole, tokenizer=stages[0], var=stages[1])
    rows = list(script["on_meta"]("small", small))
    assert [row["output"] for row in rows] == ["32x3x8x8", "96x30x32"]
    assert all(row["device"] == "meta" for row in rows)
    encoded, trained, drawn = script["on_cpu"]("small", small)
    assert encoded["output"] == "1x1+2x2+3x3+4x4" and drawn["output"] == "1x3x8x8"
    # The head starts small: at first all codes are about as likely.
    assert float(trained["loss"]) == pytest.approx(math.log(32), abs=0.1)
    assert trained["output"] == "1x30x32" and float(trained["peak_gb"]) > 0


def test_the_committed_dry_run_covers_every_preset() -> None:
    rows = read_rows(ROOT / "results" / "dry_run.csv")
    for name in (n for n in PRESETS if n.startswith("imagenet")):
        mine = [r for r in rows if r["preset"] == name and r["device"] == "meta"]
        assert [r["what"].split(":")[0] for r in mine] == ["tokenizer", "var"]
        assert mine[1]["parameters"] == exact_parameters(PRESETS[name].var.model)
        tokens = ScaleSchedule(PRESETS[name].var.model.sizes).num_tokens
        assert mine[1]["output"].endswith(f"x{tokens}x4096")
    true = [r for r in rows if r["device"] == "cpu"]
    assert [r["preset"] for r in true] == ["imagenet256-d16"] * 3
    assert true[1]["loss"] == pytest.approx(math.log(4096), abs=0.1)
    assert 0.75 < true[1]["peak_gb"] / true[1]["planned_gb"] < 1.25
    assert all(r["commit"] and r["command"] and r["hardware"] and r["date"] for r in rows)
