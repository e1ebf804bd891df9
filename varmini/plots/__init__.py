"""Pictures, charts, views and widgets: the only part that knows matplotlib and ipywidgets."""

from .charts import codebook_usage, flow, loss_curves, mask_picture, read_log
from .images import code_colours, growing, image_grid, save, scale_by_scale, token_maps

__all__ = [
    "code_colours",
    "codebook_usage",
    "flow",
    "growing",
    "image_grid",
    "loss_curves",
    "mask_picture",
    "read_log",
    "save",
    "scale_by_scale",
    "token_maps",
]
