"""Slips that end in an error of PyTorch or Python, as the hints quote it."""

from .proof import Mutant

# (assignment, slip): `mistake` holds what the check says, and a hint of its task quotes.
ERRORS = [
    ("a1", Mutant("no padding", "phi",
                  "The size of tensor a (6) must match the size of tensor b (4)",
                  "weight, bias, padding=1", "weight, bias")),
    ("a1", Mutant("channels not moved last", "nearest",
                  "mat1 and mat2 shapes cannot be multiplied",
                  "rows = z.permute(0, 2, 3, 1)", "rows = z")),
    ("a1", Mutant("channels left last", "encode", "Given groups=1, weight of size",
                  "codebook[tokens[-1]].permute(0, 3, 1, 2)", "codebook[tokens[-1]]")),
    ("a1", Mutant("all maps read where some are given", "decode_some", "list index out of range",
                  "for map_, (weight, bias) in zip(tokens, phis):",
                  "for k, (weight, bias) in enumerate(phis):\n        map_ = tokens[k]")),
    ("a1", Mutant("loss for each number", "loss", "returned shape (2, 3, 4, 4), expected ()",
                  "return f + (f_hat - f).detach(), loss / len(sizes)",
                  "return f + (f_hat - f).detach(), (f - f_hat) ** 2")),
    ("a2", Mutant("scale without a dimension for tokens", "modulate",
                  "The size of tensor a (5) must match the size of tensor b (2)",
                  "(1 + scale[:, None])", "(1 + scale)")),
    ("a2", Mutant("heads without dimensions", "attend",
                  "The size of tensor a (6) must match the size of tensor b (2)",
                  "* scale[:, None, None]", "* scale")),
    ("a2", Mutant("view after a transpose", "attention",
                  "view size is not compatible with input tensor's size and stride",
                  "return F.linear(mixed.transpose(1, 2).flatten(2), p[\"proj\"]",
                  "return F.linear(mixed.transpose(1, 2).view(*x.shape), p[\"proj\"]")),
    ("a2", Mutant("gate without a dimension for tokens", "block",
                  "The size of tensor a (2) must match the size of tensor b (14)",
                  "gamma1[:, None]", "gamma1")),
    ("a2", Mutant("position added before joining", "embed",
                  "The size of tensor a (27) must match the size of tensor b (14)",
                  "torch.cat([start, F", "torch.cat([start + p[\"position\"], F")),
    ("a2", Mutant("cache joined along heads", "step",
                  "Sizes of tensors must match except in dimension 1",
                  "torch.cat([cache[0], k], dim=2)", "torch.cat([cache[0], k], dim=1)")),
    ("a2", Mutant("no cache at the first map", "step",
                  "cannot unpack non-iterable NoneType object",
                  "if cache is not None:", "old_k, old_v = cache\n    if cache is not None:")),
    ("a3", Mutant("top_k beyond V", "keep_top_k", "selected index k out of range",
                  "if not 0 < top_k < logits.shape[-1]:", "if not 0 < top_k:")),
    ("a3", Mutant("uniform without a dimension for codes", "draw",
                  "The size of tensor a (6) must match the size of tensor b (4)",
                  "uniform[..., None] * total", "uniform")),
    ("a3", Mutant("tokens left in a row", "sample", "number of dimensions in the tensor input",
                  "uniforms[k]).view(-1, h, w))", "uniforms[k]))")),
    ("a3", Mutant("the model asked twice", "sample", "once a scale, in order",
                  "logits = guide(*model.logits(k, x), k, len(model.sizes), cfg)\n"
                  "        logits = keep_top_p(keep_top_k(logits, top_k), top_p)\n"
                  "        tokens.append",
                  "cond, uncond = model.logits(k, x)[0], model.logits(k, x)[1]\n"
                  "        logits = guide(cond, uncond, k, len(model.sizes), cfg)\n"
                  "        logits = keep_top_p(keep_top_k(logits, top_k), top_p)\n"
                  "        tokens.append")),
    ("a3", Mutant("an input for scale K", "sample", "list index out of range",
                  "model.contribution(k, codes)\n        if k + 1 < len(model.sizes):",
                  "model.contribution(k, codes)\n        if True:")),
    ("a3", Mutant("a mask of bools interpolated", "keep_maps", "not implemented for 'Bool'",
                  "(~mask).float()", "(~mask)")),
]  # fmt: skip
