"""The transformer of VAR: predicts each whole token map from all coarser ones (section 3.2).

Read from the bottom up: `VAR.forward` is training, `VAR.step` is one step of generation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.pretrained import Pretrained
from .checks import as_labels, check_teacher_inputs
from .config import VARConfig
from .scales import ScaleSchedule


class KVCache:
    """Keys and values of the scales drawn so far, in every block."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def append(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores k, v (B, heads, l, d) of one scale; returns those of all scales up to it."""
        if block in self.keys:
            k = torch.cat([self.keys[block], k], dim=2)
            v = torch.cat([self.values[block], v], dim=2)
        self.keys[block], self.values[block] = k, v
        return k, v


class Attention(nn.Module):
    """Self-attention whose queries and keys have unit length (section 3.2, "q/k normalisation").

    attn = softmax(s_h <q/|q|, k/|k|>) v with s_h = exp(min(sigma_h, ln 100)) learned a head.
    Queries and values have a bias, keys have none.
    """

    LARGEST = math.log(100)

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.qk_norm = heads, qk_norm
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)
        if qk_norm:
            self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(4)))

    def bias(self) -> Tensor:
        """Bias of queries, keys and values side by side: (3 width,)."""
        return torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])

    def temperature(self) -> Tensor:
        """s_h, one a head: (heads, 1, 1)."""
        return self.log_scale.clamp(max=self.LARGEST).exp()

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None, block: int = 0
    ) -> Tensor:
        """(B, l, w) -> (B, l, w).

        Args:
            mask: (l, l) bool, True where a query (row) may attend to a key; None for everywhere.
            cache: with it, x is the next scale and sees all scales before it as well.
            block: which block's part of the cache this is.
        """
        qkv = F.linear(x, self.qkv.weight, self.bias().to(x.dtype))  # (B, l, 3 w)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, l, d)
        if self.qk_norm:
            q, k = F.normalize(q, dim=-1) * self.temperature(), F.normalize(k, dim=-1)
        else:
            q = q * (0.25 / math.sqrt(q.shape[-1]))  # as the official code scales it
        q, k = q.to(v.dtype), k.to(v.dtype)
        if cache is not None:
            k, v = cache.append(block, k, v)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # heads side by side, then mixed


class Block(nn.Module):
    """A transformer block modulated by the class (AdaLN, as in DiT).

    x <- x + gamma_1 Attn(LN(x) (1 + s_1) + b_1)
    x <- x + gamma_2 FFN(LN(x) (1 + s_2) + b_2)
    """

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.attention = Attention(config.width, config.heads, config.qk_norm)
        self.fc1 = nn.Linear(config.width, hidden)
        self.fc2 = nn.Linear(hidden, config.width)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        mask: Tensor | None,
        cache: KVCache | None = None,
        block: int = 0,
    ) -> Tensor:
        """x (B, l, w) and the block's modulation (B, 6, w) -> (B, l, w); see `Attention`."""
        gamma1, gamma2, s1, s2, b1, b2 = modulation.unsqueeze(2).unbind(1)  # each (B, 1, w)
        x = x + gamma1 * self.attention(modulate(x, s1, b1), mask, cache, block)
        h = F.gelu(self.fc1(modulate(x, s2, b2)), approximate="tanh")
        return x + gamma2 * self.fc2(h)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, with a layer norm that has no weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class VAR(nn.Module, Pretrained):
    """Next-scale prediction: p(r_1, ..., r_K | class) = prod_k p(r_k | r_1, ..., r_{k-1}, class).

    The input at scale k is f_hat of all coarser scales, averaged down to that scale's grid; the
    output at the same positions are the logits of r_k itself, with no shift inside a scale
    (section 3.2, equation 6). Given the coarser scales, the tokens of a scale are conditionally
    independent.

    Raises:
        ValueError: when the config contradicts itself, for example when heads do not divide width.
    """

    config_class = VARConfig
    kind = "var"
    no_decay = ("class_embedding", "start_position", "position", "level_embedding", "log_scale",
                "offsets")  # fmt: skip

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        config.check()
        self.config, w = config, config.width
        self.schedule = ScaleSchedule(config.sizes)
        first, total = self.schedule.tokens_per_scale[0], self.schedule.num_tokens
        self.class_embedding = nn.Embedding(config.num_classes + 1, w)
        self.start_position = nn.Parameter(torch.empty(1, first, w))
        self.position = nn.Parameter(torch.empty(1, total, w))
        self.level_embedding = nn.Embedding(len(self.schedule), w)
        self.word = nn.Linear(config.code_channels, w)
        # The six vectors of every block come from one product, side by side.
        self.modulation = nn.Linear(w, 6 * w * (1 if config.shared_adaln else config.depth))
        if config.shared_adaln:
            self.offsets = nn.Parameter(torch.empty(config.depth, 6, w))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head_modulation = nn.Linear(w, 2 * w)
        self.head = nn.Linear(w, config.vocab_size)
        self.register_buffer("mask", self.schedule.mask(), persistent=False)
        self.register_buffer("level_ids", self.schedule.level_ids(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """The official initialisation: std sqrt(1 / 3w), branches and gates small at first."""
        c = self.config
        std = math.sqrt(1 / c.width / 3)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif not name.endswith("log_scale"):
                nn.init.trunc_normal_(p, std=std)
        with torch.no_grad():
            for block in self.blocks:
                block.attention.proj.weight /= math.sqrt(2 * c.depth)
                block.fc2.weight /= math.sqrt(2 * c.depth)
            gates = self.modulation.weight.view(-1, 6, c.width, c.width)
            if c.shared_adaln:  # the official code scales the blocks' offsets alone then
                gates = nn.init.normal_(self.offsets, std=c.width**-0.5)
            gates[:, :2] *= c.init_gamma
            gates[:, 2:] *= 0.5
            self.head_modulation.weight *= 0.5
            self.head.weight *= 0.02

    def forward(
        self, labels: Tensor, teacher_inputs: Tensor, draws: Tensor | None = None
    ) -> Tensor:
        """Teacher forcing: logits of all scales at once.

        Their argmax is not a sample: each scale sees the true coarser scales, not drawn ones.

        Args:
            labels: (B,) integers in [0, num_classes]; num_classes is the null class.
            teacher_inputs: (B, L - h_1 w_1, C) from `MultiScaleQuantizer.teacher_inputs`.
            draws: (B, 1 + 2 depth), uniform in [0, 1): the random numbers of label dropout and
                drop path in training mode; None draws them here.

        Returns:
            (B, L, V) float32. In training mode some labels are dropped for the null class; in
            evaluation mode none are, and the result is deterministic.

        Raises:
            ValueError: on labels or inputs of another shape, type or range.
        """
        labels = as_labels(labels, self.config.num_classes).to(self.head.weight.device)
        length = self.schedule.num_tokens - self.schedule.tokens_per_scale[0]
        batch = labels.shape[0]
        check_teacher_inputs(teacher_inputs, (batch, length, self.config.code_channels))
        if self.training:
            if draws is None:
                draws = torch.rand(batch, 1 + 2 * self.config.depth, device=labels.device)
            dropped = draws[:, 0] < self.config.label_dropout
            labels = labels.masked_fill(dropped, self.config.num_classes)
        start, modulations, head = self.condition(labels)
        if self.training and self.config.drop_path > 0:
            modulations = self.skip_branches(modulations, draws[:, 1:])
        words = self.word(teacher_inputs.to(self.word.weight))
        x = torch.cat([start, words.to(start.dtype)], dim=1)  # (B, L, w)
        x = x + self.position + self.level_embedding(self.level_ids)
        for i, block in enumerate(self.blocks):
            x = block(x, modulations[i], self.mask)
        return self.head(self.before_head(x, head)).float()

    def step(self, k: int, x: Tensor, modulations: Tensor, head: Tensor, cache: KVCache) -> Tensor:
        """One scale of generation: what `forward` computes for scale k, from cached earlier scales.

        Args:
            k: the scale, from 0; earlier ones must have been stepped through with this cache.
            x: (B, h_k w_k, w): the start (k = 0), or `word` of the next input.
            modulations, head: from `condition`.

        Returns:
            (B, h_k w_k, V) float32 logits of r_k.
        """
        return self.head(self.hidden(k, x, modulations, head, cache)).float()

    def hidden(
        self, k: int, x: Tensor, modulations: Tensor, head: Tensor, cache: KVCache
    ) -> Tensor:
        """`step` up to what the last linear layer reads: (B, h_k w_k, w)."""
        part = self.schedule.slices[k]
        x = x + self.position[:, part] + self.level_embedding(self.level_ids[part])
        for i, block in enumerate(self.blocks):
            x = block(x, modulations[i], None, cache, i)
        return self.before_head(x, head)

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for a batch of that size."""
        return KVCache()

    def condition(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the class decides.

        Labels (B,) -> start (B, h_1 w_1, w), modulations of the blocks (depth, B, 6, w) and of the
        head (B, 2, w).
        """
        embedded = self.class_embedding(labels)
        start = embedded[:, None] + self.start_position
        gate = F.silu(embedded)
        modulations = self.modulation(gate).unflatten(1, (-1, 6, self.config.width)).transpose(0, 1)
        if self.config.shared_adaln:
            modulations = modulations + self.offsets[:, None].to(modulations.dtype)
        return start, modulations, self.head_modulation(gate).unflatten(1, (2, -1))

    def before_head(self, x: Tensor, head: Tensor) -> Tensor:
        """(B, l, w) and the head's modulation (B, 2, w) -> what the head reads (B, l, w)."""
        scale, shift = head.unsqueeze(2).unbind(1)
        return modulate(x, scale, shift)

    def skip_branches(self, modulations: Tensor, draws: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): shuts the gates of some branches of some images.

        The chance grows in proportion to depth, from 0 to `drop_path`; gates that stay open grow
        by 1 / (1 - chance), which keeps the mean. Modulations (depth, B, 6, w); draws (B, 2 depth)
        are uniform in [0, 1).
        """
        keep = 1 - torch.linspace(0, self.config.drop_path, len(modulations), device=draws.device)
        keep = keep[:, None, None]
        draws = draws.unflatten(1, (-1, 2)).transpose(0, 1)  # (depth, B, 2)
        gates = modulations[:, :, :2] * ((draws < keep) / keep.clamp(min=1e-3))[..., None]
        return torch.cat([gates.to(modulations.dtype), modulations[:, :, 2:]], dim=2)
