"""Official VAR checkpoints (FoundationVision/VAR): read into our models, and written back.

What a name there means is in `official_names.py`; reading, cleaning and all that may be wrong with
a file is in `official_file.py`. Here the sizes are read off the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch

from ..model.scales import ScaleSchedule, Size
from ..model.tokenizer import MultiScaleVQVAE, TokenizerConfig
from ..model.transformer import VAR, VARConfig
from .file import Checkpoint, Source
from .names import PHI, State, tokenizer_views, var_views

SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


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
    tok = None if vae is None else _load_tokenizer(Checkpoint(vae, "vae"), schedule, lookup)
    model = None if var is None else _load_var(Checkpoint(var, "var"), schedule, heads)
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
        vae_state = _copies(tokenizer_views(tok.state_dict(), config, PHI + phi))
        vae_state["quantize.ema_vocab_hit_SV"] = torch.zeros(len(tok.schedule), tok.vocab_size)
    if var is not None:
        var_state = _copies(var_views(var.state_dict(), var.config))
        var_state["lvl_1L"] = var.schedule.level_ids()[None]
        for i in range(var.config.depth):
            var_state[f"blocks.{i}.attn.zero_k_bias"] = torch.zeros(var.config.width)
    return vae_state, var_state


def _copies(views: State) -> State:
    return {
        name: view.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, view in views.items()
    }


# -------------------------------------------------------------------- reading sizes off the tensors


def _load_tokenizer(given: Checkpoint, schedule: ScaleSchedule, lookup: str) -> MultiScaleVQVAE:
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
    views = partial(tokenizer_views, config=config, phi=PHI + phi)
    return given.fill(MultiScaleVQVAE, config, views)


def _load_var(given: Checkpoint, schedule: ScaleSchedule, heads: int | None) -> VAR:
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
    model = given.fill(VAR, config, partial(var_views, config=config))
    # Built without memory, like the weights, but in no checkpoint.
    model.mask, model.level_ids = schedule.mask(), schedule.level_ids()
    return model
