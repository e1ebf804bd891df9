"""Official VAR checkpoints (FoundationVision/VAR): read into our models, and written back.

Two functions at the end, `tokenizer_views` and `var_views`, hold all names, for both directions.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .model.scales import ScaleSchedule, Size
from .model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from .model.transformer import VAR, VARConfig
from .runtime.pretrained import read_tensors

State = dict[str, Tensor]
Source = str | os.PathLike | Mapping[str, Tensor]

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
# What DDP, FSDP, activation checkpointing and torch.compile put into names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Buffers that follow from the sizes alone.
DERIVED = {"attn_bias_for_masking", "lvl_1L", "zero_k_bias", "ema_vocab_hit_SV"}
PHI = "quantize.quant_resi."


def load_official(
    vae: Source | None,
    var: Source | None,
    sizes: Iterable[Size] = SIZES,
    *,
    heads: int | None = None,
    lookup: str = "euclidean",
) -> tuple[MultiScaleVQVAE | None, VAR | None]:
    """Builds our models from official weights, in evaluation mode, on the CPU and in float32.

    Width, depth, heads, vocabulary, code length, image channels, classes, number and sharing of the
    phis, shared or per-block AdaLN and q/k normalisation are read off the tensors. A name may hold
    what DDP, FSDP or torch.compile add ("module.", "_orig_mod."); a training checkpoint of the
    official trainer may be given as it is. Buffers that follow from the sizes (the attention mask
    above all) are neither needed nor kept.

    Args:
        vae: the tokenizer (vae_ch160v4096z32.pth): a path, read as safetensors by that ending and
            otherwise by torch.load with weights_only=True, or a state dict; None leaves it out.
        var: the transformer (var_d16.pth and so on), likewise.
        sizes: the token maps, coarse to fine; the one thing that no tensor holds.
        heads: attention heads, needed only where q and k are not normalised (else they are read off
            scale_mul_1H11) and the official rule, width / 64, does not hold.
        lookup: "cosine" for a tokenizer trained with using_znorm=True, which no tensor tells.

    Returns:
        (tokenizer, transformer), None for one left out. What only training uses (beta, label
        dropout, drop path) has our default values.

    Raises:
        ValueError: a file that is missing, damaged or not a dictionary of tensors; tensors that
            are unknown, missing or wrongly shaped, named all together.
    """
    schedule = ScaleSchedule(sizes)
    tok = None if vae is None else _load_tokenizer(_Checkpoint(vae, "vae"), schedule, lookup)
    model = None if var is None else _load_var(_Checkpoint(var, "var"), schedule, heads)
    return tok, model


def to_official(tok: MultiScaleVQVAE | None, var: VAR | None) -> tuple[State | None, State | None]:
    """Writes our models under the official names: `load_official` of the result is bit-equal.

    Everything the official classes register is there but the large `attn_bias_for_masking`, which
    they rebuild themselves (load with strict=False). One phi is written as fully shared, as many
    phis as scales as one per scale (but four as the official default, partially shared, which
    computes the same), any other number as partially shared.

    Returns:
        (tokenizer's, transformer's) state dict of new CPU tensors; None for a model that is None.

    Raises:
        ValueError: the tokenizer folds pixels (`patch` above 1), which no official one does.
    """
    vae_state = var_state = None
    if tok is not None:
        config, n = tok.config, tok.config.num_phi
        if config.patch != 1:
            raise ValueError(f"patch is {config.patch}, expected 1, as the official tokenizer has")
        # Four phis for four scales fit two layouts with equal results: write the default one then.
        phi = "qresi" if n == 1 else "{}" if n == len(tok.schedule) and n != 4 else "qresi_ls.{}"
        vae_state = _copies(tokenizer_views(tok.state_dict(), config, PHI + phi))
        vae_state["quantize.ema_vocab_hit_SV"] = torch.zeros(len(tok.schedule), tok.vocab_size)
    if var is not None:
        var_state = _copies(var_views(var.state_dict(), var.config))
        var_state["lvl_1L"] = var.schedule.level_ids()[None]
        for i in range(var.config.depth):
            var_state[f"blocks.{i}.attn.zero_k_bias"] = torch.zeros(var.config.width)
    return vae_state, var_state


def _copies(views: State) -> State:
    dense = torch.contiguous_format
    return {name: view.detach().cpu().clone(memory_format=dense) for name, view in views.items()}


# ------------------------------------------------------------- a checkpoint, and sizes read off it


class _Checkpoint:
    """An official state dict under clean names. ValueError where there is none in `source`."""

    def __init__(self, source: Source, kind: str) -> None:
        self.label, content = _read(source, kind)
        # The official trainer keeps both models and its own state in one file.
        wrapped = ("state_dict", "model")
        for key in ("trainer", {"vae": "vae_local", "var": "var_wo_ddp"}[kind], *wrapped):
            content = content[key] if isinstance(content.get(key), Mapping) else content
        self.state: State = {}
        self.problems: list[str] = []
        for name, value in content.items():
            clean = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
            if clean.rpartition(".")[2] in DERIVED:
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                found = value.dtype if isinstance(value, Tensor) else f"a {type(value).__name__}"
                self.problems.append(f"{name} is {found}, expected a tensor of floating numbers")
            else:
                self.state[clean] = value
        other = "class_emb.weight" if kind == "vae" else "quantize.embedding.weight"
        if other in self.state:
            raise ValueError(f"{self.label} holds {other}: it is not the {kind}, swap vae and var")

    def has(self, pattern: str) -> bool:
        """Whether there is a tensor of this name; * stands for anything."""
        return any(fnmatchcase(name, pattern) for name in self.state)

    def number(self, prefix: str) -> int:
        """How many numbered parts follow `prefix`: one more than the highest number."""
        rest = (name.removeprefix(prefix) for name in self.state if name.startswith(prefix))
        parts = (name.partition(".")[0] for name in rest)
        return max((int(part) + 1 for part in parts if part.isdecimal()), default=0)

    def size(self, pattern: str, axis: int, default: int) -> int:
        """Length of the first tensor of such a name; others are held against it in `fill`."""
        found = (t for n, t in self.state.items() if fnmatchcase(n, pattern) and t.ndim > axis)
        tensor = next(found, None)
        return default if tensor is None else tensor.shape[axis]

    def fill(self, cls: type, config: TokenizerConfig | VARConfig, views_of: Callable):
        """cls(config) with these weights, or all that is wrong in one ValueError."""
        try:
            with _NoInit():
                model = cls(config)
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.label} has sizes of no {cls.__name__}: {reason}") from None
        views = views_of(model.state_dict())
        problems = self.problems + [f"unknown {name}" for name in self.state if name not in views]
        for name, view in views.items():
            if name not in self.state:
                problems.append(f"missing {name}")
            elif (found := self.state[name].shape) != view.shape:
                problems.append(f"{name} is {tuple(found)}, expected {tuple(view.shape)}")
        if problems:
            more = [f"and {len(problems) - 40} more"] * (len(problems) > 40)
            if any(p.startswith(("pos_1LC", "pos_start", "lvl_embed")) for p in problems):
                more.append(f"sizes={config.sizes} may not be those it was trained with")
            words = "; ".join(problems[:40] + more)
            raise ValueError(f"{self.label} does not fit an official {cls.__name__}: {words}")
        with torch.no_grad():
            for name, view in views.items():
                view.copy_(self.state.pop(name))  # popped, so that memory falls as ours fills
        return model.eval()


def _read(source: Source, kind: str) -> tuple[str, Mapping]:
    """(what to call it in an error, content) of a path or state dict."""
    if isinstance(source, Mapping):
        return f"the {kind} state dict", source
    if not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        given = source if isinstance(source, str | os.PathLike) else f"a {type(source).__name__}"
        raise ValueError(
            f"{given} is no file: expected the official {kind} "
            f"checkpoint, a .pth or .safetensors file, or a state dict"
        )
    path = Path(source)
    if path.suffix == ".safetensors":
        return str(path), read_tensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path} is damaged or holds more than tensors, which varmini does not "
            f"unpickle ({type(error).__name__}): download it again"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return str(path), content


class _NoInit(TorchFunctionMode):
    """Skips the random initial values, which are replaced at once."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _load_tokenizer(given: _Checkpoint, schedule: ScaleSchedule, lookup: str) -> MultiScaleVQVAE:
    levels = range(max(1, given.number("encoder.down.")))
    widths = [given.size(f"encoder.down.{i}.block.*.conv?.bias", 0, 32) for i in levels]
    if given.has(PHI + "qresi.*"):
        phi, num_phi = "qresi", 1
    elif given.has(PHI + "qresi_ls.*"):
        phi, num_phi = "qresi_ls.{}", given.number(PHI + "qresi_ls.")
    else:
        phi, num_phi = "{}", given.number(PHI)
    width = math.gcd(*widths)
    config = TokenizerConfig(
        sizes=schedule.sizes,
        image_channels=given.size("encoder.conv_in.weight", 1, 3),
        vocab_size=given.size("quantize.embedding.weight", 0, 4096),
        code_channels=given.size("quantize.embedding.weight", 1, 32),
        width=width,
        multipliers=tuple(w // width for w in widths),
        num_res_blocks=max(1, *(given.number(f"encoder.down.{i}.block.") for i in levels)),
        attention=given.has("*.attn*"),
        num_phi=num_phi,
        lookup=lookup,
    )
    views = partial(tokenizer_views, config=config, phi=PHI + phi)
    return given.fill(MultiScaleVQVAE, config, views)


def _load_var(given: _Checkpoint, schedule: ScaleSchedule, heads: int | None) -> VAR:
    width = given.size("blocks.*.attn.proj.bias", 0, 1024)
    qk_norm = given.has("blocks.*.attn.scale_mul_1H11")
    if qk_norm:
        read = given.size("blocks.*.attn.scale_mul_1H11", 1, 16)
        if heads not in (None, read):
            raise ValueError(f"heads is {heads}, but {given.label} has {read}: leave heads= out")
        heads = read
    elif heads is None and width % 64:
        raise ValueError(
            f"{given.label} does not normalise q and k, and its width {width} is no multiple of "
            f"64: no tensor tells the number of heads, give heads="
        )
    config = VARConfig(
        depth=max(1, given.number("blocks.")),
        width=width,
        heads=heads or width // 64,
        sizes=schedule.sizes,
        vocab_size=given.size("head.weight", 0, 4096),
        code_channels=given.size("word_embed.weight", 1, 32),
        num_classes=given.size("class_emb.weight", 0, 1001) - 1,
        mlp_ratio=given.size("blocks.*.ffn.fc1.bias", 0, 4 * width) / width,
        qk_norm=qk_norm,
        shared_adaln=given.has("shared_ada_lin.1.*") or not given.has("blocks.*.ada_lin.1.*"),
    )
    return given.fill(VAR, config, partial(var_views, config=config))


# ---------------------------------------------------------------------------------------- the names


def tokenizer_views(own: State, config: TokenizerConfig, phi: str) -> State:
    """Official name -> our tensor; `phi` is the official name of a phi, {} being its number."""
    levels, attention = len(config.multipliers), config.attention
    names = {"pre_quant": "quant_conv", "post_quant": "post_quant_conv"}
    names |= {"quantizer.codebook": "quantize.embedding"}
    names |= {f"quantizer.phis.{i}": phi.format(i) for i in range(config.num_phi)}
    middle = ("block_1", "attn_1", "block_2") if attention else ("block_1", "block_2")
    for half, stack, order in (("encoder", "down", 1), ("decoder", "up", -1)):
        names |= {f"{half}.{n}": f"{half}.{n}" for n in ("conv_in", "norm_out", "conv_out")}
        names |= {f"{half}.middle.{i}": f"{half}.mid.{n}" for i, n in enumerate(middle)}
        layers = []
        for level in range(levels)[::order]:
            for block in range(config.num_res_blocks + (stack == "up")):
                layers.append(f"{level}.block.{block}")
                layers += [f"{level}.attn.{block}"] * (attention and level == levels - 1)
            layers.append(f"{level}.{stack}sample")
        layers.pop()  # the last level changes no size
        names |= {f"{half}.levels.{i}": f"{half}.{stack}.{n}" for i, n in enumerate(layers)}
    views = {}
    for name, tensor in own.items():
        prefix = next(p for p in names if name.startswith(p + "."))
        rest = name[len(prefix) :].replace(".shortcut.", ".nin_shortcut.")
        views[names[prefix] + rest.replace(".proj.", ".proj_out.")] = tensor
    return views


VAR_NAMES = {
    "class_embedding": "class_emb",
    "start_position": "pos_start",
    "position": "pos_1LC",
    "level_embedding": "lvl_embed",
    "word": "word_embed",
    "head": "head",
    "head_modulation": "head_nm.ada_lin.1",
    "modulation": "shared_ada_lin.1",
    "attention.qkv": "attn.mat_qkv",
    "attention.log_scale": "attn.scale_mul_1H11",
    "attention": "attn",
    "fc1": "ffn.fc1",
    "fc2": "ffn.fc2",
}


def var_views(own: State, config: VARConfig) -> State:
    """Official name -> our tensor, or the part of it that belongs to one block."""
    views = {}
    for name, tensor in own.items():
        start, inner = re.fullmatch(r"(blocks\.\d+\.)?(.*)", name).groups("")
        prefix = next((p for p in VAR_NAMES if f"{inner}.".startswith(f"{p}.")), None)
        if name == "offsets":  # (depth, 6, w)
            views |= {f"blocks.{i}.ada_gss": part[None] for i, part in enumerate(tensor.split(1))}
        elif prefix == "modulation" and not config.shared_adaln:  # (depth 6 w, ...)
            parts = enumerate(tensor.chunk(config.depth))
            views |= {f"blocks.{i}.ada_lin.1.{name.partition('.')[2]}": part for i, part in parts}
        else:
            official = start + VAR_NAMES[prefix] + inner.removeprefix(prefix)
            views[official] = tensor[None] if inner == "attention.log_scale" else tensor
    return views
