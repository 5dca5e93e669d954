"""Looks into pictures, and makes of each one that every browser draws."""

from __future__ import annotations

import warnings

import pi_heif
from PIL import Image, ImageOps

from dossier.content.finding import Finding, damaged, too_much
from dossier.domain.kinds import HEIC, JPEG, PNG

MOST_PIXELS = 100_000_000  # a telephone's best has 48 or 50 million
MOST_EDGE = 4096  # pixels of a rendition's longer edge: a page of A4 at 350 to the inch
_QUALITY = 85
_FORMATS = {JPEG: "JPEG", PNG: "PNG", HEIC: "HEIF"}

pi_heif.register_heif_opener(thumbnails=False)
pi_heif.options.DECODE_THREADS = 1
Image.MAX_IMAGE_PIXELS = None  # our own limit comes before anything is decoded


def look(path: str, kind: str, rendition: str) -> Finding:
    """What there is to tell of a picture; writes its rendition, a JPEG, to `rendition`. Raises InvalidInput
    for one that is not taken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=[_FORMATS[kind]]) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise too_much(f"{MOST_PIXELS // 10**6} megapixels")
                if kind == PNG:  # its checksums to the last piece; afterwards it has to be opened anew
                    picture.verify()
            with Image.open(path, formats=[_FORMATS[kind]]) as picture:
                _render(picture, rendition)
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
        raise damaged(f"{_FORMATS[kind]}: {type(error).__name__}") from None
    return Finding(kind, rendition=True)


def _render(picture: Image.Image, path: str) -> None:
    """Upright, on white, without what the file says of camera and place."""
    picture.draft("RGB", (MOST_EDGE, MOST_EDGE))  # a JPEG is then decoded to what is needed only
    picture.load()  # to the last byte: what is cut off fails here
    picture.thumbnail((MOST_EDGE, MOST_EDGE))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA", "P"):
        layer = upright.convert("RGBA")
        upright = Image.new("RGB", layer.size, "white")
        upright.paste(layer, mask=layer.getchannel("A"))
    elif upright.mode.startswith("I") or upright.mode == "F":  # more than 8 bits a pixel
        upright = upright.convert("I").point(lambda value: value / 256).convert("L")
    clean = upright.convert("RGB")
    clean.info = {}
    clean.save(path, "JPEG", quality=_QUALITY, optimize=True, exif=b"")
