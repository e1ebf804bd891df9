"""The plain form of the quick paths, as the notebooks derive it, to measure and to test them by.

Dense mask, float32, conditioning anew at every scale, a cache of keys and values that grows by
concatenation, guidance on logits, filters by top-k and sort, pixels doubled before they are
convolved. It reads the weights of the same models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...fast.layers import Doubling
from ...model.block import Attention, Block
from ...model.filters import draw, guide
from ...model.sampler import _Noise
from ...model.tokenizer import MultiScaleVQVAE
from ...model.transformer import VAR

Cache = list[tuple[Tensor, Tensor]]


def attention(layer: Attention, x: Tensor, mask: Tensor | None, cache: Cache | None, i: int):
    """softmax(q k^T + mask) v for (B, l, w); with a cache, over all keys so far."""
    bias = torch.cat([layer.q_bias, torch.zeros_like(layer.q_bias), layer.v_bias])
    qkv = F.linear(x, layer.qkv.weight, bias).unflatten(2, (3, layer.heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if layer.qk_norm:
        scale = layer.log_scale.clamp(max=layer.LARGEST).exp()
        q, k = F.normalize(q, dim=-1) * scale, F.normalize(k, dim=-1)
    else:
        q = q / (4 * q.shape[-1] ** 0.5)
    if cache is not None:
        if len(cache) > i:
            k, v = torch.cat([cache[i][0], k], dim=2), torch.cat([cache[i][1], v], dim=2)
            cache[i] = k, v
        else:
            cache.append((k, v))
    scores = q @ k.transpose(2, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return F.linear(mixed, layer.proj.weight, layer.proj.bias)


def block(layer: Block, x: Tensor, modulation: Tensor, *rest) -> Tensor:
    """One block: x (B, l, w) and its modulation (B, 6, w)."""
    gamma1, gamma2, scale1, scale2, shift1, shift2 = modulation.unsqueeze(2).unbind(1)
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
    x = x + gamma1 * attention(layer.attention, h, *rest)
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
    h = F.gelu(F.linear(h, layer.fc1.weight, layer.fc1.bias), approximate="tanh")
    return x + gamma2 * F.linear(h, layer.fc2.weight, layer.fc2.bias)


def through(var: VAR, labels: Tensor, x: Tensor, mask: Tensor | None, cache: Cache | None):
    """All blocks and the head, with the conditioning computed here: (B, l, w) -> (B, l, V)."""
    gate = F.silu(var.class_embedding(labels))
    shared = var.config.shared_adaln
    own = var.modulation
    for i, layer in enumerate(var.blocks):
        # Every block's own six vectors from its own product.
        rows = slice(None) if shared else slice(6 * len(gate[0]) * i, 6 * len(gate[0]) * (i + 1))
        modulation = F.linear(gate, own.weight[rows], own.bias[rows]).unflatten(1, (6, -1))
        modulation = modulation + var.offsets[i] if shared else modulation
        x = block(layer, x, modulation, mask, cache, i)
    head = F.linear(gate, var.head_modulation.weight, var.head_modulation.bias)
    scale, shift = head.unflatten(1, (2, 1, -1)).unbind(1)
    x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    return F.linear(x, var.head.weight, var.head.bias)


def forward(var: VAR, labels: Tensor, teacher_inputs: Tensor) -> Tensor:
    """`VAR.forward` in evaluation mode: (B,) and (B, L - h_1 w_1, C) -> (B, L, V)."""
    start = var.class_embedding(labels)[:, None] + var.start_position
    x = torch.cat([start, F.linear(teacher_inputs, var.word.weight, var.word.bias)], dim=1)
    x = x + var.position + var.level_embedding(var.level_ids)
    return through(var, labels, x, var.mask, None)


def filter_logits(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """`filters.filter_logits` by top-k and a sort of tokens with their places."""
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if 0 < top_p < 1:
        ordered, order = logits.sort(dim=-1)
        goes = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        goes[..., -1] = False
        logits = logits.masked_fill(torch.zeros_like(goes).scatter(-1, order, goes), float("-inf"))
    return logits


@torch.no_grad()
def sample(
    var: VAR,
    tok: MultiScaleVQVAE,
    labels: Sequence[int],
    *,
    cfg: float = 1.5,
    top_k: int = 900,
    top_p: float = 0.96,
    seed: int = 0,
) -> tuple[Tensor, list[Tensor]]:
    """`sampler.sample` with guidance: images (B, C, H, W) in [-1, 1] and their token pyramid."""
    labels = torch.as_tensor(labels)
    both = torch.cat([labels, torch.full_like(labels, var.config.num_classes)])
    noise, quantizer = _Noise(seed, 0, len(labels), labels.device), tok.quantizer
    cache: Cache = []
    f_hat, tokens = 0.0, []
    for k, (h, w) in enumerate(tok.schedule.grids):
        part = tok.schedule.slices[k]
        if k == 0:
            x = var.class_embedding(both)[:, None] + var.start_position
        else:
            x = quantizer.next_input(f_hat, k).repeat(2, 1, 1)
            x = F.linear(x, var.word.weight, var.word.bias)
        x = x + (var.position + var.level_embedding(var.level_ids))[:, part]
        logits = guide(*through(var, both, x, None, cache).chunk(2), k, len(tok.schedule), cfg)
        logits = filter_logits(logits, top_k, top_p)
        tokens.append(draw(logits, noise.uniform(h * w)).view(-1, h, w))
        f_hat = f_hat + quantizer.contribution(k, quantizer.embed(tokens[-1]))
    return decode_features(tok, f_hat).clamp(-1, 1), tokens


def decode_features(tok: MultiScaleVQVAE, f_hat: Tensor) -> Tensor:
    """`MultiScaleVQVAE.decode_features`: (B, C, h_K, w_K) -> (B, C, H, W)."""
    decoder = tok.decoder
    h = decoder.middle(decoder.conv_in(tok.post_quant(f_hat)))
    for layer in decoder.levels:
        if isinstance(layer, Doubling):
            h = layer.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        else:
            h = layer(h)
    return decoder.unfold(decoder.conv_out(decoder.norm_out(h)))
