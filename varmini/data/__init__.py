"""Images from anywhere: the hub, parquet files, folders, streams, and the embedded subsets."""

from .sets import EMBEDDED, ImageSet, load_images, to_float

__all__ = ["EMBEDDED", "ImageSet", "load_images", "to_float"]
