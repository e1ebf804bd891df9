"""Images from anywhere: known names, folders, parquet files, the hub, and any `datasets` object."""

from .batching import batch_order, batches, check_batch_size, in_order
from .loading import EMBEDDED, class_names, fitted, load_images
from .pictures import to_float, to_uint8
from .sets import ImageSet, LazyImages, spread

__all__ = [
    "EMBEDDED", "ImageSet", "LazyImages", "batch_order", "batches", "check_batch_size",
    "class_names", "fitted", "in_order", "load_images", "spread", "to_float", "to_uint8",
]  # fmt: skip
