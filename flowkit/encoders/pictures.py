"""Read pictures as people have them: rotated by EXIF, transparent, with a palette, CMYK, 16 bits a channel, far too large."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from flowkit.errors import Unreadable

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # not EPS: Pillow would run Ghostscript on it
MOST_PIXELS = 2**26  # 8,192 x 8,192: a third of a GB while it is read
LEAST_SIDE = 8  # pixels
ENOUGH = 1024  # pixels of the shorter side: a larger JPEG is decoded at 1/2, 1/4 or 1/8 of its size
_JPEG = b"\xff\xd8\xff"
_opening = threading.Lock()  # filters of warnings belong to the process


def read_image(source: Path | str | bytes | Image.Image | np.ndarray) -> Image.Image:
    """Return a picture as RGB, upright, on white where it is transparent.

    source: a file, its bytes, a PIL image of any mode, or an array: (H, W) or (H, W, 1), (H, W, 3), (H, W, 4) of uint8, uint16,
    bool, or floats from 0 to 1. A JPEG file whose shorter side has 2,048 pixels or more is decoded at a fraction of its size.
    Memory is bounded: 20,000 x 20,000 pixels are read from a JPEG, and refused in other formats before they are decoded.
    Raises Unreadable for what is not a picture, or truncated, animated, smaller than 8 pixels or larger than 67 million.
    """
    if isinstance(source, np.ndarray):
        return _on_white(_of_array(source))
    if isinstance(source, Image.Image):
        return _upright(source)
    if isinstance(source, bytes):
        if not source:
            raise Unreadable("is empty")
        return _decoded(io.BytesIO(source))
    path = Path(source)
    if path.is_dir():
        raise Unreadable("is a folder, not a picture")
    try:
        with path.open("rb") as file:
            return _decoded(file)
    except FileNotFoundError:
        raise Unreadable("does not exist") from None
    except OSError as error:
        raise Unreadable("cannot be opened", error.strerror or str(error)) from None


def _decoded(file: Any) -> Image.Image:
    start = file.read(len(_JPEG))
    file.seek(0)
    if not start:
        raise Unreadable("is empty")
    try:
        if start == _JPEG:  # not by Image.open, which refuses what is too large before it can be reduced
            image: Any = JpegImageFile(file)
        else:
            Image.init()
            with _opening, warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
                image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError:
        raise _too_large() from None
    except Exception:  # UnidentifiedImageError, and whatever a damaged header raises
        raise Unreadable(_not_a_picture(file)) from None
    with image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise Unreadable("is animated or has several pages; save the one to use as PNG", f"{frames} frames")
        if isinstance(image, JpegImageFile):
            if image.info.get("progressive") and image.width * image.height > MOST_PIXELS:
                raise _too_large(image)  # its coefficients are held in memory at full size
            image.draft(None, (ENOUGH, ENOUGH))
        return _upright(image)


def _upright(image: Image.Image) -> Image.Image:
    """Return a PIL image as RGB, rotated as its EXIF data say."""
    if min(image.size) < LEAST_SIDE:
        raise Unreadable("is too small", f"{image.width} x {image.height}; at least {LEAST_SIDE} x {LEAST_SIDE} pixels")
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(image)
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise Unreadable("is truncated or damaged", " ".join(str(error).split())[:200]) from None
    with contextlib.suppress(Exception):  # damaged EXIF data: the picture as it is stored
        image = ImageOps.exif_transpose(image)
    return _on_white(image)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _gray(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    try:
        return image.convert("RGB")
    except (ValueError, OSError) as error:
        raise Unreadable(f"has colors of a kind that is not read ({image.mode}); save it as PNG", str(error)) from None


def _gray(image: Image.Image) -> Image.Image:
    """Return 16-bit or floating-point gray as 8 bits. Pillow's own conversion cuts values off at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        return _of_array(values)
    gray = Image.fromarray(((np.clip(values, 0, 65535).astype(np.uint32) + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")  # the one value that is transparent
    if isinstance(clear, int):
        gray.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return gray


def _of_array(values: np.ndarray) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise Unreadable(f"is an array of shape {values.shape}; expected (H, W), (H, W, 3) or (H, W, 4)")
    height, width = values.shape[:2]
    if min(height, width) < LEAST_SIDE:
        raise Unreadable("is too small", f"{width} x {height}; at least {LEAST_SIDE} x {LEAST_SIDE} pixels")
    if height * width > MOST_PIXELS:
        raise Unreadable(
            f"has more than {MOST_PIXELS // 10**6} million pixels; make it smaller", f"{width:,} x {height:,}"
        )
    if values.dtype.kind == "f":
        if not (values.min() >= 0 and values.max() <= 1):  # also false for NaN
            raise Unreadable(
                f"is an array of {values.dtype} outside 0 to 1", f"from {values.min():.4g} to {values.max():.4g}"
            )
        values = np.round(values.astype(np.float32) * 255).astype(np.uint8)
    elif values.dtype == np.uint16:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif values.dtype != np.uint8:
        raise Unreadable(f"is an array of {values.dtype}; expected uint8, uint16, bool, or floats from 0 to 1")
    return Image.fromarray(np.ascontiguousarray(values))


def _too_large(image: Image.Image | None = None) -> Unreadable:
    size = "" if image is None else f"{image.width:,} x {image.height:,}"
    return Unreadable(f"has more than {MOST_PIXELS // 10**6} million pixels; make it smaller, or save it as JPEG", size)


def _not_a_picture(file: Any) -> str:
    file.seek(0)
    start = file.read(512)
    if b"<svg" in start:
        return "is an SVG drawing, not a picture of pixels; save it as PNG"
    if start[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "is a HEIC picture, which is not read; save it as JPEG"
    return "is not a picture that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)"
