"""From an encoded picture to a tensor, and the one pixel convention: float images in [-1, 1]."""

import contextlib
import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 images 0..255, any shape, to float32 in [-1, 1]; ValueError for any other type."""
    if images.dtype != torch.uint8:
        raise ValueError(f"to_float: got {images.dtype}, expected uint8 (values 0..255)")
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Float images to uint8: clamped to [-1, 1], then rounded. Undoes `to_float` exactly."""
    if not images.is_floating_point():
        raise ValueError(f"to_uint8: got {images.dtype}, expected float images in [-1, 1]")
    return images.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image of mode L or RGB as uint8 (C, H, W)."""
    return torch.from_numpy(np.atleast_3d(np.array(image))).permute(2, 0, 1).contiguous()


def decode(file: str | bytes | dict, source: str, channels: int | None = None) -> Image.Image:
    """A PIL image of mode L (1 channel) or RGB (3), from a path, bytes, or a cell with either.

    It is turned as its EXIF data say; transparent parts become white; 16-bit greys keep their
    upper byte; of an animation the first frame is taken. ValueError naming `source` when it is
    broken, or claims so many pixels (89 million; ImageNet's largest has 61) that Pillow suspects
    a bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata in pictures that can be read
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # before it is unpacked
            if isinstance(file, dict):
                file = file.get("bytes") or file.get("path")
            image = Image.open(file if isinstance(file, str) else io.BytesIO(file or b""))
            image.load()
            with contextlib.suppress(Exception):  # damaged metadata: as the pixels lie
                ImageOps.exif_transpose(image, in_place=True)
            return _plain_mode(image, channels)
    except Exception as error:  # PIL's readers raise nearly everything on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{source}: broken picture ({reason}); replace or remove it") from None


def _plain_mode(image: Image.Image, channels: int | None) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is not known")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    channels = channels or (1 if image.mode in ("1", "L", "LA", "La") else 3)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def resize_and_crop(image: Image.Image, size: int, rng: np.random.Generator | None) -> Image.Image:
    """Shorter side to 1.125 x size, then a square of `size`: random with `rng`, else centred.

    Only the square is computed: the crop is taken in the picture's own coordinates.
    """
    width, height = image.size
    middle, short = round(1.125 * size), min(width, height)
    scaled = (int(middle * width / short), int(middle * height / short))
    room = (side - size for side in scaled)
    left, top = (int(rng.integers(r + 1)) if rng else round(r / 2) for r in room)
    sx, sy = width / scaled[0], height / scaled[1]
    box = (left * sx, top * sy, min((left + size) * sx, width), min((top + size) * sy, height))
    return image.resize((size, size), Image.Resampling.LANCZOS, box=box)
