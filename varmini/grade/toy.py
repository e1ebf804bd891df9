"""Models small enough to check by hand: what assignments 2 and 3 probe and draw from."""

from __future__ import annotations


class ToyModel:
    """Stands in for a trained `VAR` and its tokenizer: random weights, but the true interface.

    Of tensors in a submission, of arrays in the references; `resize(x, size, kind)` fits.

    Attributes:
        sizes: the grids (h_k, w_k) of the K token maps.
        codebook: (V, C).
    """

    def __init__(self, resize, sizes, codebook, start, weight, null, bias):
        self.sizes, self.codebook = [tuple(size) for size in sizes], codebook
        self._resize, self._weights = resize, (start, weight, null, bias)

    def step(self, k, x, cache):
        """Logits of scale k with the class and without, (B, h_k w_k, V) each, and the new cache.

        x: (B, h_k w_k, C) from `next_input`, or None at scale 0. cache: None at scale 0, else what
        the step before returned: a list of tensors with 2B rows, those with the class first.
        """
        start, weight, null, bias = self._weights
        if len(cache or ()) != k:
            raise ValueError(f"the cache holds {len(cache or ())} scales, expected {k} before "
                             "this one: give `step` the cache of the step before")  # fmt: skip
        x = start if k == 0 else x[list(range(len(x))) * 2]
        cache, half = [*(cache or ()), x], len(x) // 2
        for e in cache:  # attention without a softmax
            x = x + x @ (e.swapaxes(1, 2) @ e) / (1 + (e * e).sum((1, 2))[:, None, None])
        return x[:half] @ weight + bias[k], x[half:] @ null + bias[k], cache

    def contribution(self, k, codes):
        """What scale k adds to f_hat: codes (B, C, h_k, w_k) -> (B, C, H, W)."""
        return self._resize(codes, self.sizes[-1], "bicubic") / (1 + 0.3 * k)

    def next_input(self, k, f_hat):
        """The input of scale k, from f_hat (B, C, H, W) of all scales before: (B, h_k w_k, C)."""
        small = self._resize(f_hat, self.sizes[k], "area")
        return small.reshape(*small.shape[:2], -1).swapaxes(1, 2)


def hidden_network(layers):
    """A function from (L, w) to (L, w): `layers` of attention, each a weight and a mask."""

    def network(x):
        for weight, mask in layers:
            scores = (x @ weight @ x.mT).masked_fill(~mask, float("-inf"))
            x = x + scores.softmax(-1) @ x
        return x.round(decimals=6)  # so that gradients tell nothing

    return network
