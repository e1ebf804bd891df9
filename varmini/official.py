"""Official VAR checkpoints (FoundationVision/VAR): their names read into ours, and written back.

One table of names serves both directions: `_tokenizer_views` and `_var_views` give, for every
tensor that an official checkpoint holds, the place among our tensors where its numbers live.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from .pretrained import read_tensors
from .scales import ScaleSchedule, Size
from .tokenizer import MultiScaleVQVAE, TokenizerConfig
from .transformer import VAR, VARConfig

State = dict[str, Tensor]
Source = str | os.PathLike | Mapping[str, Tensor]

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
# What DDP, FSDP, activation checkpointing and torch.compile put into names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Buffers that follow from the sizes alone.
DERIVED = {"attn_bias_for_masking", "lvl_1L", "zero_k_bias", "ema_vocab_hit_SV"}
PHI = "quantize.quant_resi."
NAMED = 20  # of each kind of problem in an error


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
        ValueError: both are None; a file that is missing, damaged or not a dictionary of tensors;
            tensors that are unknown, missing or wrongly shaped, named all together; or a tokenizer
            and a transformer that do not belong together.
    """
    if vae is None and var is None:
        raise ValueError("vae and var are both None, expected at least one checkpoint")
    schedule = ScaleSchedule(sizes)
    tok = None if vae is None else _load_tokenizer(_Checkpoint(vae, "vae"), schedule, lookup)
    model = None if var is None else _load_var(_Checkpoint(var, "var"), schedule, heads)
    if tok is not None and model is not None:
        ours = (model.config.vocab_size, model.config.code_channels)
        if ours != (tok.vocab_size, tok.config.code_channels):
            raise ValueError(
                f"var reads {ours[0]} codes of {ours[1]} channels, but vae writes {tok.vocab_size} "
                f"codes of {tok.config.code_channels}: load a pair that was trained together"
            )
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
        config = tok.config
        if config.patch != 1:
            raise ValueError(
                f"patch is {config.patch}, expected 1: the official tokenizer has no "
                f"pixel folding, so this model cannot be written under its names"
            )
        # Four phis for four scales fit two layouts with equal results: write the default one then.
        n = config.num_phi
        phi = "qresi" if n == 1 else "{}" if n == len(tok.schedule) and n != 4 else "qresi_ls.{}"
        vae_state = _copies(_tokenizer_views(tok.state_dict(), config, PHI + phi))
        vae_state["quantize.ema_vocab_hit_SV"] = torch.zeros(len(tok.schedule), tok.vocab_size)
    if var is not None:
        var_state = _copies(_var_views(var.state_dict(), var.config))
        var_state["lvl_1L"] = var.schedule.level_ids()[None]
        for i in range(var.config.depth):
            var_state[f"blocks.{i}.attn.zero_k_bias"] = torch.zeros(var.config.width)
    return vae_state, var_state


def _copies(views: State) -> State:
    return {
        name: view.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, view in views.items()
    }


# ------------------------------------------------------------------------------ the tables of names


def _tokenizer_views(own: State, config: TokenizerConfig, phi: str) -> State:
    """Official name -> our tensor; `phi` is the official name of a phi, {} being its number."""
    levels, attention = len(config.multipliers), config.attention
    names = {
        "pre_quant": "quant_conv",
        "post_quant": "post_quant_conv",
        "quantizer.codebook": "quantize.embedding",
    }
    names |= {f"quantizer.phis.{i}": phi.format(i) for i in range(config.num_phi)}
    middle = ("block_1", "attn_1", "block_2") if attention else ("block_1", "block_2")
    for half, stack in (("encoder", "down"), ("decoder", "up")):
        encoder = half == "encoder"
        names |= {f"{half}.{n}": f"{half}.{n}" for n in ("conv_in", "norm_out", "conv_out")}
        names |= {f"{half}.middle.{i}": f"{half}.mid.{n}" for i, n in enumerate(middle)}
        place = count()
        for level in range(levels) if encoder else reversed(range(levels)):
            official = f"{half}.{stack}.{level}"
            for block in range(config.num_res_blocks + (not encoder)):
                names[f"{half}.levels.{next(place)}"] = f"{official}.block.{block}"
                if attention and level == levels - 1:
                    names[f"{half}.levels.{next(place)}"] = f"{official}.attn.{block}"
            if level != (levels - 1 if encoder else 0):
                names[f"{half}.levels.{next(place)}"] = f"{official}.{stack}sample"
    views = {}
    for name, tensor in own.items():
        prefix = next(p for p in names if name.startswith(p + "."))
        rest = (
            name[len(prefix) :]
            .replace(".shortcut.", ".nin_shortcut.")
            .replace(".proj.", ".proj_out.")
        )
        views[names[prefix] + rest] = tensor
    return views


def _var_views(own: State, config: VARConfig) -> State:
    """Official name -> our tensor, or the part of it that belongs to one block."""
    names = {
        "class_embedding": "class_emb",
        "start_position": "pos_start",
        "position": "pos_1LC",
        "level_embedding": "lvl_embed",
        "word": "word_embed",
        "head": "head",
        "head_modulation": "head_nm.ada_lin.1",
        "modulation": "shared_ada_lin.1",
    }
    inner = {
        "attention.qkv": "attn.mat_qkv",
        "attention": "attn",
        "fc1": "ffn.fc1",
        "fc2": "ffn.fc2",
    }
    views = {}
    for name, tensor in own.items():
        first, _, rest = name.partition(".")
        if first == "blocks":
            block, _, rest = rest.partition(".")
            prefix = next(p for p in inner if rest.startswith(p + "."))
            official = f"blocks.{block}.{inner[prefix]}{rest[len(prefix) :]}"
            if rest.endswith("log_scale"):  # (heads, 1, 1)
                views[official.replace("log_scale", "scale_mul_1H11")] = tensor[None]
            else:
                views[official] = tensor
        elif first == "offsets":  # (depth, 6, w)
            views |= {f"blocks.{i}.ada_gss": part[None] for i, part in enumerate(tensor.split(1))}
        elif first == "modulation" and not config.shared_adaln:  # (depth 6 w, ...)
            views |= {
                f"blocks.{i}.ada_lin.1.{rest}": part
                for i, part in enumerate(tensor.chunk(config.depth))
            }
        else:
            views[names[first] + (f".{rest}" if rest else "")] = tensor
    return views


# -------------------------------------------------------------------- reading sizes off the tensors


def _load_tokenizer(given: _Checkpoint, schedule: ScaleSchedule, lookup: str) -> MultiScaleVQVAE:
    levels = max(1, given.number("encoder.down."))
    widths = [
        given.size(
            f"width of level {i}",
            32,
            *(
                (f"{half}.{i}.block.*.{name}", 0)
                for half in ("encoder.down", "decoder.up")
                for name in ("conv1.bias", "conv2.bias", "norm2.bias", "conv1.weight")
            ),
        )
        for i in range(levels)
    ]
    width = math.gcd(*widths)
    if given.has(PHI + "qresi.*"):
        phi, num_phi = "qresi", 1
    elif given.has(PHI + "qresi_ls.*"):
        phi, num_phi = "qresi_ls.{}", given.number(PHI + "qresi_ls.")
    else:
        phi, num_phi = "{}", given.number(PHI)
    config = TokenizerConfig(
        sizes=schedule.sizes,
        image_channels=given.size(
            "image channels",
            3,
            ("encoder.conv_in.weight", 1),
            ("decoder.conv_out.weight", 0),
            ("decoder.conv_out.bias", 0),
        ),
        vocab_size=given.size("vocabulary", 4096, ("quantize.embedding.weight", 0)),
        code_channels=given.size(
            "code length",
            32,
            ("quantize.embedding.weight", 1),
            ("*quant_conv.bias", 0),
            ("encoder.conv_out.bias", 0),
            ("decoder.conv_in.weight", 1),
        ),
        width=width,
        multipliers=tuple(w // width for w in widths),
        num_res_blocks=max(1, *(given.number(f"encoder.down.{i}.block.") for i in range(levels))),
        attention=any(".attn" in name for name in given.state),
        num_phi=num_phi,
        lookup=lookup,
    )
    views = partial(_tokenizer_views, config=config, phi=PHI + phi)
    return given.fill(MultiScaleVQVAE, config, views)


def _load_var(given: _Checkpoint, schedule: ScaleSchedule, heads: int | None) -> VAR:
    blocks = "blocks.*."
    width = given.size(
        "width",
        1024,
        ("class_emb.weight", 1),
        ("pos_1LC", 2),
        ("pos_start", 2),
        ("lvl_embed.weight", 1),
        ("word_embed.bias", 0),
        ("head.weight", 1),
        (blocks + "attn.proj.bias", 0),
    )
    hidden = given.size(
        "hidden width",
        4 * width,
        (blocks + "ffn.fc1.bias", 0),
        (blocks + "ffn.fc1.weight", 0),
        (blocks + "ffn.fc2.weight", 1),
    )
    qk_norm = given.has(blocks + "attn.scale_mul_1H11")
    if qk_norm:
        read = given.size("number of heads", 16, (blocks + "attn.scale_mul_1H11", 1))
        if heads not in (None, read):
            raise ValueError(f"heads is {heads}, but {given.label} has {read}: leave heads= out")
        heads = read
    elif heads is None:
        if width % 64:
            raise ValueError(
                f"{given.label} does not normalise q and k, and its width {width} is "
                f"no multiple of 64: no tensor tells the number of heads, give heads="
            )
        heads = width // 64
    config = VARConfig(
        depth=max(1, given.number("blocks.")),
        width=width,
        heads=heads,
        sizes=schedule.sizes,
        vocab_size=given.size("vocabulary", 4096, ("head.weight", 0), ("head.bias", 0)),
        code_channels=given.size("code length", 32, ("word_embed.weight", 1)),
        num_classes=given.size("classes", 1001, ("class_emb.weight", 0)) - 1,
        mlp_ratio=hidden / width,
        qk_norm=qk_norm,
        shared_adaln=given.has("shared_ada_lin.1.*") or not given.has(blocks + "ada_lin.1.*"),
    )
    model = given.fill(VAR, config, partial(_var_views, config=config))
    # Built without memory, like the weights, but in no checkpoint.
    model.mask, model.level_ids = schedule.mask(), schedule.level_ids()
    return model


class _Checkpoint:
    """An official state dict under clean names, with all that is wrong with it.

    Args:
        source: a path or a state dict.
        kind: "vae" or "var".

    Raises:
        ValueError: when there is no dictionary of tensors to be had from `source`.
    """

    def __init__(self, source: Source, kind: str) -> None:
        self.label, content = _read(source, kind)
        # The official trainer keeps both models and its own state in one file.
        model = "vae_local" if kind == "vae" else "var_wo_ddp"
        for key in ("trainer", model, "state_dict", "model"):
            content = content[key] if isinstance(content.get(key), Mapping) else content
        self.state: State = {}
        self.problems: list[str] = []
        for name, value in content.items():
            clean = ".".join(part for part in str(name).split(".") if part not in WRAPPERS)
            if clean.rpartition(".")[2] in DERIVED:
                continue
            if not isinstance(value, Tensor):
                self.problems.append(f"{name} is a {type(value).__name__}, expected a tensor")
                continue
            if not value.is_floating_point():
                self.problems.append(f"{name} is {value.dtype}, expected floating numbers")
            if clean in self.state:
                self.problems.append(f"{clean} is there twice")
            self.state[clean] = value
        other = "class_emb.weight" if kind == "vae" else "quantize.embedding.weight"
        if other in self.state:
            raise ValueError(
                f"{self.label} holds {other}, so it is not the {kind}: give the "
                f"tokenizer first and the transformer second"
            )

    def has(self, pattern: str) -> bool:
        """Whether there is a tensor of this name; * stands for anything."""
        return any(fnmatchcase(name, pattern) for name in self.state)

    def number(self, prefix: str) -> int:
        """How many numbered parts follow `prefix`: one more than the highest number."""
        parts = (
            name[len(prefix) :].partition(".")[0] for name in self.state if name.startswith(prefix)
        )
        return max((int(part) + 1 for part in parts if part.isdecimal()), default=0)

    def size(self, what: str, default: int, *places: tuple[str, int]) -> int:
        """The size that most tensors in `places` (pattern, axis) have, so that an odd one shows."""
        found = {
            name: tensor.shape[axis]
            for pattern, axis in places
            for name, tensor in self.state.items()
            if fnmatchcase(name, pattern) and tensor.ndim > axis
        }
        if not found:
            return default
        ranked = Counter(found.values()).most_common(2)
        if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
            self.problems.append(
                f"{what} is unclear: " + ", ".join(f"{n} in {name}" for name, n in found.items())
            )
        return ranked[0][0]

    def fill(
        self, cls: type, config: TokenizerConfig | VARConfig, views_of: Callable[[State], State]
    ) -> MultiScaleVQVAE | VAR:
        """Builds cls(config) with these weights, or names all that is wrong in one ValueError."""
        with torch.device("meta"):  # no memory and no time for weights that are replaced at once
            model = cls(config)
        own = {
            name: torch.empty(t.shape, dtype=torch.float32)
            for name, t in model.state_dict().items()
        }
        views = views_of(own)
        wrong = {
            name: f"{name} is {tuple(self.state[name].shape)}, expected {tuple(view.shape)}"
            for name, view in views.items()
            if name in self.state and self.state[name].shape != view.shape
        }
        found = [
            self.problems,
            [f"unknown {name}" for name in self.state if name not in views],
            [f"missing {name}" for name in views if name not in self.state],
            [*wrong.values()],
        ]
        if any(found):
            text = "; ".join(
                line
                for group in found
                for line in group[:NAMED]
                + [f"and {len(group) - NAMED} more"] * (len(group) > NAMED)
            )
            if wrong.keys() & {"pos_1LC", "pos_start", "lvl_embed.weight"}:
                text += f"; sizes={config.sizes} may not be those it was trained with"
            raise ValueError(f"{self.label} does not fit an official {cls.__name__}: {text}")
        for name, view in views.items():
            view.copy_(self.state.pop(name))  # popped, so that memory falls as ours fills
        model.load_state_dict(own, assign=True)
        return model.eval()


def _read(source: Source, kind: str) -> tuple[str, Mapping]:
    """(what to call it in an error, content) of a path or state dict."""
    if isinstance(source, Mapping):
        return f"the {kind} state dict", source
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"{kind} is a {type(source).__name__}, expected the path of a .pth or "
            f".safetensors file, or a state dict"
        )
    path = Path(source)
    if not path.is_file():
        raise ValueError(
            f"{path} is no file: expected the official {kind} checkpoint, .pth or .safetensors"
        )
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
