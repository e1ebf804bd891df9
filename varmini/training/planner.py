"""What a training run needs: memory of stage 2 by part, hours and cost, before a GPU is rented."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..model.scales import ScaleSchedule
from ..model.tokenizer import TokenizerConfig
from ..model.transformer import VARConfig
from .flops import (
    VGG_FLOPS,
    computed_pairs,
    lookup_flops,
    tokenizer_training_flops,
    var_parameters,
)


@dataclass(frozen=True)
class GPU:
    """A graphics card, by its data sheet."""

    name: str
    peak: float  # FLOP/s of dense bf16 matrix products
    memory: float  # bytes
    price: float  # USD an hour, a rough figure for renting one; prices differ several times over


GPUS = {
    "a100": GPU("A100 80 GB", 312e12, 80e9, 1.30),
    "a100-40gb": GPU("A100 40 GB", 312e12, 40e9, 1.30),
    "h100": GPU("H100 SXM", 989e12, 80e9, 3.00),
    "h200": GPU("H200 SXM", 989e12, 141e9, 4.00),
    "b200": GPU("B200", 2250e12, 180e9, 5.89),
    "4090": GPU("GeForce RTX 4090", 165e12, 24e9, 0.69),
}
"""Peak and memory: NVIDIA's data sheets. Prices: middle of the "specialty" on-demand rates of May
2026 for A100, H100, H200 (mercatus-ai.com/blog/cloud-gpu-pricing), RunPod's for B200 and 4090
(usagepricing.com)."""

USABLE = 0.9
"""Share of a card's memory that tensors can fill; the rest goes to CUDA, buffers and gaps."""

UTILISATION = 0.21
"""Share of the peak reached, as far as a published run tells: the official imagenet256-d16 took 2.5
days on 16 A100 (an author, FoundationVision/VAR #26 and #44), the transformer alone counted."""


def gpu(name: str) -> GPU:
    """Looks a card up; raises a ValueError that lists the known names."""
    if name.lower() not in GPUS:
        raise ValueError(f"unknown GPU {name!r}, expected one of: {', '.join(GPUS)}")
    return GPUS[name.lower()]


def hours(flops: float, card: GPU, gpus: int, utilisation: float) -> float:
    """Hours that `gpus` cards need for `flops`, at a share of their peak."""
    return flops / (card.peak * utilisation * gpus) / 3600


def var_memory(
    config: VARConfig, images: int, *, bf16: bool = True, recompute: bool = False,
    shards: int = 1, cpu: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Bytes that one process holds at the peak of a training step, by part.

    Args:
        images: of one forward and backward pass of this process.
        bf16: matrix products in bfloat16, by autocast; weights stay float32.
        recompute: only the blocks' inputs are kept; a block's activations come back one at a time.
        shards: processes that share weights, gradients, optimizer and average (FSDP); 1 for DDP.
        cpu: the CPU's attention, which keeps its probabilities, but queries and keys only once.
    """
    c, w, e, schedule = config, config.width, 2 if bf16 else 4, ScaleSchedule(config.sizes)
    tokens, parts = schedule.num_tokens, var_parameters(c)
    count = sum(parts.values())
    copies = 2.0 * (count - parts["embeddings"]) if bf16 and shards == 1 else 0.0
    # In e bytes a number: input and output of both layer norms, 4 w; what products and gates read,
    # 12 w: 2 h, qkv, q^, s q^, k^, attention twice, both branches; fc1, gelu: 2 hidden.
    block = tokens * (w * (12 if cpu else 16) + 2 * round(w * c.mlp_ratio)) * e
    block += c.heads * computed_pairs(schedule) * e if cpu else 0
    kept = c.depth * 4 * tokens * w + block if recompute else c.depth * block
    # What lies outside the blocks (AdaLN above all) whole, and two blocks, weights and gradient
    gathered = 2 * e * (count - parts["blocks"] + 2 * parts["blocks"] / c.depth)
    each = 4 * count / shards  # bytes of the parameters, in float32
    return {
        "weights": each,
        "gradients": each,
        "optimizer": 2 * each,
        "average": each,
        "bf16 copies": copies,
        "gathered": gathered if shards > 1 else 0.0,
        "activations": float(images * (kept + tokens * w * 3 * e)),  # ... and of the head's norm
        # logits, log-softmax and the gradient of each, in float32
        "logits": 16.0 * images * tokens * c.vocab_size,
    }


def cache_memory(config: VARConfig, images: int) -> int:
    """Bytes of the key-value cache that `images` drawn together need, with guidance, in bf16."""
    tokens = ScaleSchedule(config.sizes).num_tokens
    # keys and values of 2 bytes a number; every image with and without its class
    return images * 2 * (2 * config.depth * tokens * config.width * 2)


WAYS = (("ddp", False), ("ddp", True), ("fsdp", False), ("fsdp", True))
"""Ways to run: what is sharded, and whether blocks are computed again in the backward pass."""


def way_name(way: tuple[str, bool]) -> str:
    """For a table: "ddp", "ddp+recompute", ..."""
    return way[0] + ("+recompute" if way[1] else "")


@dataclass(frozen=True)
class Fit:
    """The quickest way in which a run fits, if there is one."""

    way: tuple[str, bool]
    accumulate: int
    gpus: int


def way_memory(
    config: VARConfig, batch: int, gpus: int, way: tuple[str, bool], accumulate: int, fixed: float
) -> dict[str, float]:
    """`var_memory` of one of `WAYS`, and the `fixed` bytes of the frozen tokenizer beside it."""
    images = math.ceil(batch // gpus / accumulate)
    shards = gpus if way[0] == "fsdp" else 1
    return var_memory(config, images, recompute=way[1], shards=shards) | {"tokenizer": fixed}


def find_fit(config: VARConfig, batch: int, gpus: int, card: GPU, fixed: float) -> Fit | None:
    """The first of `WAYS` that fits, whole batches before parts, this number of GPUs before more.

    None when no number of GPUs that shares the batch evenly is enough.
    """
    while batch % gpus == 0:
        powers = [2**i for i in range(int(math.log2(batch // gpus)) + 1)]
        # A batch cut in a few parts costs nothing, recomputing a third, so parts come first.
        for ways, cuts in ((WAYS[:1], powers[:3]), (WAYS, powers[:3]), (WAYS, powers)):
            for way in ways:
                for cut in cuts:
                    parts = way_memory(config, batch, gpus, way, cut, fixed)
                    if sum(parts.values()) <= USABLE * card.memory:
                        return Fit(way, cut, gpus)
        gpus *= 2
    return None


def stage1_flops(
    config: TokenizerConfig, size: tuple[int, int], lpips: bool, recompute: bool
) -> int:
    """FLOPs of one image in a step of stage 1; its discriminator, a few per cent, is left out.

    Args:
        size: (H, W) of the images in pixels.
        lpips: two images forward and one backward to the pixels, for the loss and once more for
            the adversary's adaptive weight.
    """
    step = tokenizer_training_flops(config, recompute=recompute)
    step += 2 * lookup_flops(config)  # the entropy term: forward, and backward to z
    return step + (4 * VGG_FLOPS * size[0] * size[1] if lpips else 0)
