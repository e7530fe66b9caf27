"""Kind of a file that is no readable image, by its first bytes, for error messages."""

from __future__ import annotations

import io

from PIL.TiffImagePlugin import ImageFileDirectory_v2

UNKNOWN_FORMAT = "no image format of PIL starts like this file (not an image, or empty)"
_CONVERT = "convert it to PNG or JPEG"
_KINDS = (
    (b"%!PS", f"a PostScript file (EPS), which is not opened: {_CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"a PostScript file (EPS), which is not opened: {_CONVERT}"),
    (b"%PDF", f"a PDF document: {_CONVERT}"),
    (b"8BPS", f"a Photoshop document: {_CONVERT}"),
    (b"<svg", f"an SVG drawing: {_CONVERT}"),
    (b"<?xml", f"an XML document, perhaps an SVG drawing: {_CONVERT}"),
    (b"<!doctype html", "a web page, not an image: download the image again"),
    (b"<html", "a web page, not an image, or empty: download the image again"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the image: run git lfs pull"),
    (b"\x1f\x8b", "compressed with gzip: decompress it"),
    (b"PK\x03\x04", "a ZIP archive: unpack it"),
    (b"\x1aE\xdf\xa3", "a video: extract its frames as images"),
)
"""First bytes, in lower case where they are text -> what the file is."""


def describe_bytes(encoded: bytes) -> str:
    """Return what the bytes are, which Pillow did not take for an image, and what to do."""
    start = encoded[:64].lstrip()
    if encoded[4:8] == b"ftyp":
        brand = encoded[8:12].decode("latin-1").strip()
        if brand in ("avif", "avis"):
            return f"AVIF, which this Pillow was built without: {_CONVERT}"
        if brand in ("heic", "heix", "hevc", "heim", "heis", "mif1", "msf1"):
            return f"HEIC, whatever its name says, which Pillow does not read: {_CONVERT}"
        return "a video or other media file: extract its frames as images"
    if encoded[:4] in (b"II*\0", b"MM\0*"):
        return _describe_tiff(encoded)
    for magic, kind in _KINDS:
        if start.startswith(magic) or start.lower().startswith(magic):
            return kind
    return UNKNOWN_FORMAT


def _describe_tiff(encoded: bytes) -> str:
    try:
        directory = ImageFileDirectory_v2(encoded[:8])
        file = io.BytesIO(encoded)
        file.seek(directory.next)
        directory.load(file)
        bands, bits = directory.get(277, 1), directory[258]
    except Exception:  # any damage
        return "a damaged TIFF: its directory cannot be read"
    return (
        f"a TIFF with {bands} band(s) of {'/'.join(map(str, sorted(set(bits))))} bits, a layout "
        "that Pillow does not read: store one or three bands of 8 or 16 bits"
    )
