"""The official checkpoints' names: for every tensor there, the place among ours of its numbers.

One table serves both directions, reading and writing (`official.py`).
"""

from __future__ import annotations

from itertools import count

from torch import Tensor

from ..model.tokenizer import TokenizerConfig
from ..model.transformer import VARConfig

State = dict[str, Tensor]

PHI = "quantize.quant_resi."
"""How the names of the official phi convolutions begin."""


def tokenizer_views(own: State, config: TokenizerConfig, phi: str) -> State:
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


def var_views(own: State, config: VARConfig) -> State:
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
