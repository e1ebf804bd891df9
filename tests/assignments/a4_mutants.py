"""The mistakes of assignment 4: what becomes of the solution, and which check must say so."""

from .proof import Mutant

PARAMETERS = 'return 18 * model["depth"] * model["width"] ** 2'
FIT = "np.polyfit(np.log(n), np.log(loss), 1)\n    return slope, np.exp(intercept / slope)"
RAW_FIT = "np.polyfit(n, loss, 1)\n    return slope, np.exp(intercept / slope)"
INTERVAL = "x, y = np.log(n), np.log(loss)\n    slope, intercept = np.polyfit(x, y, 1)\n    errors"
BOUNDS = "return np.exp(middle - half), np.exp(middle), np.exp(middle + half)"

MUTANTS = [
    Mutant("embedding parameters counted", "parameters", "embeddings-counted", PARAMETERS,
           "tokens = sum(h * w for h, w in model[\"sizes\"])\n"
           "    rows = model[\"classes\"] + 1 + tokens + len(model[\"sizes\"])\n"
           "    rows += model[\"channels\"]\n"
           "    return 18 * model[\"depth\"] * model[\"width\"] ** 2 + rows * model[\"width\"]"),
    Mutant("head counted", "parameters", "head-counted", PARAMETERS,
           PARAMETERS + " + model[\"width\"] * model[\"vocab\"]"),
    Mutant("AdaLN forgotten in the parameters", "parameters", "adaln-forgotten",
           "return 18 * model", "return 12 * model"),
    Mutant("multiply-adds counted once", "forward_flops", "multiply-adds",
           "return model[\"depth\"] * block + word + head",
           "return (model[\"depth\"] * block + word + head) // 2"),
    Mutant("AdaLN for every token", "forward_flops", "adaln-per-token",
           "2 * 6 * w**2", "2 * 6 * w**2 * length"),
    Mutant("attention's square left out", "forward_flops", "attention-left-out",
           " + 2 * 2 * w * length**2", ""),
    Mutant("tokens of the last map only", "forward_flops", "last-map-only",
           "length = sum(counts)", "length = counts[-1]"),
    Mutant("head left out", "forward_flops", "head-left-out", " + word + head", " + word"),
    Mutant("backward pass forgotten", "training_flops", "no-backward",
           "return 3 * images", "return images"),
    Mutant("backward pass as dear as forward", "training_flops", "backward-as-forward",
           "return 3 * images", "return 2 * images"),
    Mutant("cache counted without earlier maps", "attention_pairs", "own-map-only",
           "int((counts * seen).sum())", "int((counts * counts).sum())"),
    Mutant("no cache counted for one step", "attention_pairs", "uncached-once",
           "int((seen * seen).sum())", "int(seen[-1] ** 2)"),
    Mutant("fit on raw instead of log values", "fit", "raw-values", FIT, RAW_FIT),
    Mutant("loss not in logarithms", "fit", "loss-not-logged", FIT,
           FIT.replace("np.log(loss)", "loss")),
    Mutant("intercept taken for beta", "fit", "intercept-as-beta",
           "np.exp(intercept / slope)", "np.exp(intercept)"),
    Mutant("log10 with exp", "fit", "base-ten-mixed", FIT,
           FIT.replace("np.log(n), np.log(loss)", "np.log10(n), np.log10(loss)")),
    Mutant("axes swapped", "fit", "axes-swapped", FIT,
           FIT.replace("np.log(n), np.log(loss)", "np.log(loss), np.log(n)")),
    Mutant("interval on raw values", "interval", "raw-values", INTERVAL,
           INTERVAL.replace("np.log(n), np.log(loss)", "n, loss")),
    Mutant("variance divided by n", "interval", "divided-by-n",
           "s = np.sqrt((errors**2).sum() / (len(x) - 2))", "s = errors.std()"),
    Mutant("scatter instead of standard error", "interval", "spread-forgotten",
           "half = t * s / np.sqrt(((x - x.mean()) ** 2).sum())", "half = t * s"),
    Mutant("factor t forgotten", "interval", "t-forgotten",
           "half = t * s / np.sqrt(((", "half = s / np.sqrt((("),
    Mutant("a run's own noise forgotten", "predict", "own-noise-forgotten",
           "np.sqrt(1 + 1 / len(x) + away)", "np.sqrt(1 / len(x) + away)"),
    Mutant("distance from the data forgotten", "predict", "distance-forgotten",
           "np.sqrt(1 + 1 / len(x) + away)", "np.sqrt(1 + 1 / len(x))"),
    Mutant("prediction left in logarithms", "predict", "not-exponentiated", BOUNDS,
           "return middle - half, middle, middle + half"),
    Mutant("half width added after exp", "predict", "added-after-exp", BOUNDS,
           "return np.exp(middle) - half, np.exp(middle), np.exp(middle) + half"),
    Mutant("best run only", "frontier", "best-run-only",
           "return loss <= np.array(best)", "return loss == loss.min()"),
    Mutant("dearer runs compared", "frontier", "more-compute-compared",
           "loss[flops <= cost]", "loss[flops >= cost]"),
    Mutant("equal losses thrown out", "frontier", "ties-lose", "return loss <= np.array(best)",
           "best = [loss[(flops <= c) & (np.arange(len(loss)) != i)].min(initial=np.inf)\n"
           "            for i, c in enumerate(flops)]\n    return loss < np.array(best)"),
    Mutant("ties compared in turn", "frontier", "ties-in-turn",
           "best = [loss[flops <= cost].min() for cost in flops]",
           "order = np.argsort(flops, kind=\"stable\")\n    best = np.empty(len(loss))\n"
           "    best[order] = np.minimum.accumulate(loss[order])"),
    Mutant("runs of the same cost not compared", "frontier", "same-cost-ignored",
           "loss[flops <= cost].min()", "loss[flops < cost].min(initial=np.inf)"),
    Mutant("word layer for all tokens", "forward_flops", "word-for-all",
           "* (length - counts[0])", "* length"),
    Mutant("sum instead of its root", "interval", "spread-not-rooted",
           "half = t * s / np.sqrt(((x - x.mean()) ** 2).sum())",
           "half = t * s / ((x - x.mean()) ** 2).sum()"),
    Mutant("height of the line forgotten", "predict", "height-forgotten",
           "np.sqrt(1 + 1 / len(x) + away)", "np.sqrt(1 + away)"),
]  # fmt: skip
