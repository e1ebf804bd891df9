"""Images from anywhere: the hub, parquet files, folders, streams, and the embedded subsets."""

from .lazy import LazyImages
from .sets import EMBEDDED, ImageSet, batches, fitted, in_order, load_images, to_float, to_uint8

__all__ = [
    "EMBEDDED",
    "ImageSet",
    "LazyImages",
    "batches",
    "fitted",
    "in_order",
    "load_images",
    "to_float",
    "to_uint8",
]
