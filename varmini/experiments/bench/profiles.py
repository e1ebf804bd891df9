"""Where the time of a training step and of a sample goes: by kind of operation, with its work."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...fast.halves import whole_batches
from ...runtime.machine import device, precision
from ...runtime.tables import Row
from .measure import Run, ceilings, name_of, short
from .shapes import SHAPES, models
from .speed import drawing_of, training

KINDS = {
    "linear layers": "mm addmm linear _linear_pointwise mkldnn_linear",
    "attention: products": "bmm baddbmm matmul _scaled_dot_product_flash_attention_for_cpu",
    "softmax": "_softmax softmax _softmax_backward_data",
    "convolutions": "convolution conv2d _convolution _convolution_pointwise mkldnn_convolution "
    "_convolution_transpose_pointwise convolution_backward",
    "norms": "native_layer_norm native_layer_norm_backward native_group_norm layer_norm "
    "linalg_vector_norm group_norm native_group_norm_backward",
    "copies, casts, layout": "copy_ clone _to_copy to contiguous cat stack _reorder_linear_weight "
    "mkldnn_reorder_conv2d_weight to_mkldnn slice_backward select_backward fill_ zero_ zeros "
    "zeros_like empty empty_like empty_strided index embedding embedding_dense_backward",
    "loss": "_log_softmax _log_softmax_backward_data nll_loss_forward nll_loss_backward "
    "nll_loss2d_forward nll_loss2d_backward",
    "choice of tokens": "sort topk cumsum searchsorted gather masked_fill masked_fill_ le lt "
    "uniform_ rand",
    "resizing of maps": "upsample_bicubic2d _adaptive_avg_pool2d adaptive_avg_pool2d",
    "element by element": "add add_ sub sub_ mul mul_ div div_ addcmul addcmul_ sum silu silu_ "
    "sigmoid sigmoid_ gelu gelu_backward exp clamp clamp_ clamp_min neg rsub",
}
"""Kinds of operations, by torch's names."""
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}
BETWEEN, OTHER = "between the calls", "views, autograd, the rest"
"""Python, and on a CPU numpy's sort; and what no kind above names."""


def kind_of(name: str) -> str:
    """The kind of an operation named as in "aten::mm"."""
    return KIND_OF.get(name.split("::")[-1], OTHER)


class Traffic(TorchDispatchMode):
    """Counts calls, FLOPs and bytes by kind of operation.

    Bytes are what the operations read and write, as if nothing stayed in a cache between them;
    views move nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = defaultdict(int)
        self.flops: dict[str, int] = defaultdict(int)
        self.bytes: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, kind = func(*args, **(kwargs or {})), kind_of(func.name().split(".")[0])
        if not func.is_view:
            self.calls[kind] += 1
            self.flops[kind] += _flops(func, args, kwargs or {}, out)
            self.bytes[kind] += sum(map(_bytes, tree_leaves((args, kwargs, out))))
        return out


def _bytes(x) -> int:
    if not isinstance(x, Tensor):
        return 0
    if x.is_mkldnn:
        return x.numel() * x.element_size()
    # What `expand` repeats is stored once.
    return math.prod(n for n, step in zip(x.shape, x.stride()) if step) * x.element_size()


def _flops(func, args: tuple, kwargs: dict, out) -> int:
    from torch.utils.flop_counter import flop_registry

    packet, name = func._overloadpacket, func.name().split("::")[1].split(".")[0]
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out)
    if name == "_linear_pointwise":  # rows, inputs, outputs
        return 2 * args[0].numel() * args[1].shape[0]
    if name == "_convolution_pointwise":  # every output: its channels' 3x3 inputs
        weight = args[2] if ".binary" in func.name() else args[1]
        return 2 * out.numel() * math.prod(weight.shape[1:])
    if name == "_convolution_transpose_pointwise":  # every input: 4x4 outputs
        return 2 * args[0].numel() * out.shape[1] * math.prod(args[1].shape[2:])
    return 0


def profile_run(run: Run, rounds: int) -> list[Row]:
    """Time, calls, FLOPs and bytes of a run, a row a kind of operation, largest time first.

    rounds: profiles, of which the median time of each kind counts.
    """
    run()  # weights are laid out, kernels compiled
    with whole_batches():
        with Traffic() as traffic:
            run()
        found = [_profiled(run) for _ in range(rounds)]
    ms = {kind: median(each.get(kind, 0.0) for each in found) for kind in found[0]}
    return [
        {
            "kind": kind,
            "calls": traffic.calls[kind],
            "ms": ms[kind],
            "share": short(ms[kind] / sum(ms.values())),
            "flops": traffic.flops[kind],
            "bytes": traffic.bytes[kind],
        }
        for kind in sorted(ms, key=ms.__getitem__, reverse=True)
    ]


def _profiled(run: Run) -> dict[str, float]:
    """Milliseconds by kind of operation, as torch's profiler finds them."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities, column = [ProfilerActivity.CPU], "self_cpu_time_total"
    if device().type == "cuda":
        activities, column = [*activities, ProfilerActivity.CUDA], "self_device_time_total"
    with profile(activities=activities) as found, record_function(BETWEEN):
        run()
    ms: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        kind = BETWEEN if event.key == BETWEEN else kind_of(event.key)
        ms[kind] += getattr(event, column) / 1e3
    return ms


def profile_rows(shape: str, batches: Sequence[int], rounds: int) -> Iterator[Row]:
    """Profiles a training step and a sample with decoding: rows by kind, and one of all kinds.

    shape: a name of `SHAPES`. batches: images in the step, and drawn together.
    """
    most, dtype = ceilings(), name_of(precision(device().type))
    var, tok = models(SHAPES[shape])
    for batch in batches:
        for task in (training(var, batch), drawing_of(var, tok, batch)):
            rows = profile_run(task.runs["quick"], rounds)
            whole = {name: sum(r[name] for r in rows) for name in ("calls", "ms", "flops", "bytes")}
            for row in (*rows, {"kind": "all", "share": 1} | whole):
                flops, moved, seconds = row["flops"], row["bytes"], row["ms"] / 1e3
                yield {"shape": shape, "what": task.what, "batch": batch} | row | {
                    "ms": short(row["ms"]),
                    "flop_per_byte": short(flops / moved) if moved else "",
                    "share_of_products": short(flops / most[dtype] / seconds),
                    "ceiling_flop_per_byte": short(most[dtype] / most["bandwidth"]),
                }  # fmt: skip
