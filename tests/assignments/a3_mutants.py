"""The mistakes of assignment 3: what becomes of the solution, and which check must say so."""

from .proof import Mutant

RAMP = "t = cfg * k / (num_scales - 1)"
MIX = "return (1 + t) * cond - t * uncond"
NUCLEUS = "goes = p.cumsum(-1) - p >= top_p"
SAMPLE_NEXT = """codes)
        if k + 1 < len(model.sizes):
            x = model.next_input(k + 1, f_hat)"""
SAMPLE_FILTER = """logits = keep_top_p(keep_top_k(logits, top_k), top_p)
        tokens.append"""
SAMPLE_GUIDE = f"""logits = guide(*model.logits(k, x), k, len(model.sizes), cfg)
        {SAMPLE_FILTER}"""
DRAW = "return (cumulative <= uniform[..., None] * total).sum(-1)"
SOFT = "cumulative = logits.softmax(-1).cumsum(-1)"
PAINT_FILTER = """logits = keep_top_p(keep_top_k(logits, top_k), top_p)
        drawn"""
PAINT_GUIDE = f"""logits = guide(*model.logits(k, x), k, len(model.sizes), cfg)
        {PAINT_FILTER}"""
FORCE = "mixed.append(torch.where(keep, tokens[k], drawn))"

MUTANTS = [
    Mutant("guidance constant instead of a ramp", "guide", "ramp-missing", RAMP, "t = cfg"),
    Mutant("ramp divided by K", "guide", "ramp-over-K", RAMP, "t = cfg * k / num_scales"),
    Mutant("ramp counted from one", "guide", "ramp-from-one", RAMP,
           "t = cfg * (k + 1) / num_scales"),
    Mutant("guidance sign", "guide", "guidance-sign", MIX,
           "return (1 - t) * cond + t * uncond"),
    Mutant("cond and uncond swapped", "guide", "guidance-swapped", MIX,
           "return (1 + t) * uncond - t * cond"),
    Mutant("the other papers' guidance", "guide", "guidance-standard", MIX,
           "return uncond + t * (cond - uncond)"),
    Mutant("top-k keeps one too many", "keep_top_k", "top-k-one-more",
           "logits.topk(top_k).values", "logits.topk(top_k + 1).values"),
    Mutant("top-k rules out with zero", "keep_top_k", "zero-for-minus-infinity",
           "logits < least, float(\"-inf\")", "logits < least, 0.0"),
    Mutant("top-p off by one: too few", "keep_top_p", "top-p-one-less",
           NUCLEUS, "goes = p.cumsum(-1) > top_p"),
    Mutant("top-p off by one: too many", "keep_top_p", "top-p-one-more", NUCLEUS,
           "goes = F.pad(p.cumsum(-1) - p >= top_p, (1, -1), value=False)"),
    Mutant("top-p without sorting", "keep_top_p", "top-p-unsorted",
           "p, order = logits.softmax(-1).sort(-1, descending=True)",
           "p, order = logits.softmax(-1), torch.arange(logits.shape[-1]).expand_as(logits)"),
    Mutant("top-p from the least likely", "keep_top_p", "top-p-unlikely",
           "descending=True", "descending=False"),
    Mutant("draw takes the likeliest", "draw", "draw-greedy",
           "return (cumulative <= uniform[..., None] * total).sum(-1)", "return logits.argmax(-1)"),
    Mutant("draw off by one", "draw", "draw-one-before",
           "(cumulative <= uniform[..., None] * total).sum(-1)",
           "(cumulative <= uniform[..., None] * total).sum(-1) - 1"),
    Mutant("draw counts from the end", "draw", "draw-from-the-end",
           "<= uniform[..., None] * total", "<= (1 - uniform[..., None]) * total"),
    Mutant("smoothing: temperature constant", "smooth", "tau-constant",
           "max(0.27 * (1 - 0.95 * rho), 0.005)", "0.27"),
    Mutant("smoothing: factor 1 + rho missing", "smooth", "rho-missing", "logits * (1 + rho)",
           "logits"),
    Mutant("smoothing: noise missing", "smooth", "noise-missing", " + noise", ""),
    Mutant("smoothing: noise not divided", "smooth", "noise-outside-tau",
           "((logits * (1 + rho) + noise) / tau)", "(logits * (1 + rho) / tau + noise)"),
    Mutant("smoothing: hard choice", "smooth", "hard-choice", "return weights @ codebook",
           "return codebook[weights.argmax(-1)]"),
    Mutant("next input from one map", "sample", "next-from-one-map", SAMPLE_NEXT,
           SAMPLE_NEXT.replace("f_hat)", "model.contribution(k, codes))")),
    Mutant("f_hat starts anew at each scale", "sample", "sum-restarts",
           "f_hat = f_hat + model.contribution(k, codes)", "f_hat = model.contribution(k, codes)"),
    Mutant("no guidance in the loop", "sample", "conditional-only", SAMPLE_GUIDE,
           "logits = model.logits(k, x)[0]\n        " + SAMPLE_FILTER),
    Mutant("filter before guidance", "sample", "filter-before-guidance", SAMPLE_GUIDE,
           "both = [keep_top_p(keep_top_k(one, top_k), top_p) for one in model.logits(k, x)]\n"
           "        logits = guide(*both, k, len(model.sizes), cfg)\n        tokens.append"),
    Mutant("top-p before top-k", "sample", "top-p-first", SAMPLE_FILTER,
           "logits = keep_top_k(keep_top_p(logits, top_p), top_k)\n        tokens.append"),
    Mutant("keep maps inverted", "keep_maps", "keep-inverted", "(~mask).float()", "mask.float()"),
    Mutant("keep maps by nearest pixel", "keep_maps", "keep-nearest",
           "mode=\"bilinear\"", "mode=\"nearest\""),
    Mutant("small maps not forced", "keep_maps", "small-maps-not-forced",
           "h * w <= 3", "h * w < 1"),
    Mutant("half counts as kept", "keep_maps", "keep-ties", "share > 0.5", "share >= 0.5"),
    Mutant("kept tokens not forced", "inpaint", "kept-not-forced", FORCE, "mixed.append(drawn)"),
    Mutant("kept tokens forced too late", "inpaint", "forced-too-late",
           "model.contribution(k, model.codebook[mixed[k]].permute(0, 3, 1, 2))",
           "model.contribution(k, model.codebook[drawn].permute(0, 3, 1, 2))"),
    Mutant("the wrong part is forced", "inpaint", "wrong-part-forced",
           "torch.where(keep, tokens[k], drawn)", "torch.where(keep, drawn, tokens[k])"),
    Mutant("draw without the true total", "draw", "past-the-end", " * total", ""),
    Mutant("searchsorted from the left", "draw", "draw-at-edge", "cumulative <= uniform",
           "cumulative < uniform"),
    Mutant("draw clamped to the last code", "draw", "past-the-end", DRAW,
           "return (cumulative <= uniform[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)"),
    Mutant("draw in half precision", "draw", "", SOFT, SOFT.replace("logits", "logits.half()")),
    Mutant("draw in bfloat16", "draw", "", SOFT, SOFT.replace("logits", "logits.bfloat16()")),
    Mutant("a temperature of 0.9 in draw", "draw", "", SOFT,
           SOFT.replace("logits", "(logits / 0.9)")),
    Mutant("a temperature of 0.9 in the loop", "sample", "", SAMPLE_FILTER,
           SAMPLE_FILTER.replace("(logits, top_k)", "(logits / 0.9, top_k)")),
    Mutant("half precision in the loop", "sample", "", SAMPLE_FILTER,
           "logits = logits.half().float()\n        " + SAMPLE_FILTER),
    Mutant("top-k one too many in the loop", "sample", "top-k-one-more", SAMPLE_FILTER,
           SAMPLE_FILTER.replace("top_k), top_p", "top_k + 1), top_p")),
    Mutant("no top-k in the loop", "sample", "no-top-k", SAMPLE_FILTER,
           SAMPLE_FILTER.replace("keep_top_k(logits, top_k)", "logits")),
    Mutant("no top-p in the loop", "sample", "no-top-p", SAMPLE_FILTER,
           "logits = keep_top_k(logits, top_k)\n        tokens.append"),
    Mutant("no filter in the loop", "sample", "no-filter", SAMPLE_FILTER, "tokens.append"),
    Mutant("scales counted from one in the loop", "sample", "scales-from-one", SAMPLE_GUIDE,
           SAMPLE_GUIDE.replace(", k, len", ", k + 1, len")),
    Mutant("a loop that draws greedily", "sample", "draw-greedy", "draw(logits, uniforms[k]).view(",
           "logits.argmax(-1).view("),
    Mutant("predictions added up", "guide", "guidance-summed", MIX,
           "return (1 + t) * cond + t * uncond"),
    Mutant("a loop that adds predictions", "sample", "", SAMPLE_GUIDE,
           "logits = sum(model.logits(k, x))\n        " + SAMPLE_FILTER),
    Mutant("a loop that changes the codebook", "sample", "in-place", "    return tokens, f_hat",
           "    model.codebook += 0.1\n    return tokens, f_hat"),
    Mutant("a loop that changes the sizes", "sample", "in-place", "    return tokens, f_hat",
           "    model.sizes.pop()\n    return tokens, f_hat"),
    Mutant("the counter of the model set back", "sample", "", SAMPLE_GUIDE,
           "cond = model.logits(k, x)[0]\n        model._turn = k\n"
           "        uncond = model.logits(k, x)[1]\n"
           "        logits = guide(cond, uncond, k, len(model.sizes), cfg)\n        "
           + SAMPLE_FILTER),
    Mutant("keep maps by nearest-exact", "keep_maps", "keep-nearest-exact",
           "mode=\"bilinear\"", "mode=\"nearest-exact\""),
    Mutant("keep maps by bicubic", "keep_maps", "keep-bicubic",
           "mode=\"bilinear\"", "mode=\"bicubic\""),
    Mutant("keep maps with antialias", "keep_maps", "keep-antialias",
           "mode=\"bilinear\"", "mode=\"bilinear\", antialias=True"),
    Mutant("keep maps of square masks only", "keep_maps", "", "(~mask).float()[None, None]",
           "(~mask).float().view(1, 1, len(mask), len(mask))"),
    Mutant("in-painting without the filter", "inpaint", "no-filter", PAINT_FILTER, "drawn"),
    Mutant("in-painting without top-k", "inpaint", "no-top-k", PAINT_FILTER,
           PAINT_FILTER.replace("keep_top_k(logits, top_k)", "logits")),
    Mutant("in-painting with top-k one too many", "inpaint", "top-k-one-more", PAINT_FILTER,
           PAINT_FILTER.replace("top_k), top_p", "top_k + 1), top_p")),
    Mutant("in-painting without guidance", "inpaint", "conditional-only", PAINT_GUIDE,
           "logits = model.logits(k, x)[0]\n        " + PAINT_FILTER),
    Mutant("in-painting at a temperature of 0.9", "inpaint", "", PAINT_FILTER,
           PAINT_FILTER.replace("(logits, top_k)", "(logits / 0.9, top_k)")),
]  # fmt: skip
