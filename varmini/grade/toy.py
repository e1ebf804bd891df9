"""Models small enough to check by hand: what assignments 2 and 3 probe and draw from."""

from __future__ import annotations


class ToyModel:
    """Stands in for a trained `VAR` and its tokenizer: random weights, but the true interface.

    Of tensors in a submission, of arrays in the references; `resize(x, size, kind)` fits.

    Attributes:
        sizes: the grids (h_k, w_k) of the K token maps.
        codebook: (V, C).
        logits: a function of k, the scale from 0, and x, (B, h_k w_k, C) from `next_input` or None
            at scale 0. It returns two tensors (B, h_k w_k, V): logits for the class, and for no
            class. Raises a ValueError when it is not the turn of scale k: a real model appends to
            its cache.
    """

    def __init__(self, resize, sizes, codebook, start, weight, bias, null):
        self.sizes = [tuple(size) for size in sizes]
        self.codebook, self._resize = codebook, resize
        turns = iter(range(len(sizes)))  # out of reach: nothing here can be set back

        def logits(k, x):
            turn = next(turns, None)
            if k != turn:
                raise ValueError(
                    f"logits of scale {k} asked for, expected scale {turn}: once a scale, in order"
                )
            x = start if x is None else x
            return x @ weight + bias[k], x @ null + bias[k]

        self.logits = logits

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
