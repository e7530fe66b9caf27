import io
import struct
import subprocess
import threading
import tracemalloc
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from layercache.errors import DataError, WorkerError
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.pipeline.decode import RowRange, decode_rows, open_image
from tests.extraction.fakes import SMALL

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 10, 3), np.uint8)
GREY = RNG.integers(0, 256, (12, 10), np.uint8)


def written(tmp_path, image, name="x.png", **options):
    """The one sample that `image` (a PIL image or raw bytes) makes."""
    if isinstance(image, bytes):
        (tmp_path / name).write_bytes(image)
    else:
        image.save(tmp_path / name, **options)
    return FileSamples(str(tmp_path), [name], np.zeros(1, np.int64))


def opened(*args, **options):
    image = open_image(written(*args, **options), 0)
    assert image.mode == "RGB"
    return np.asarray(image)


def png_bytes(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_open_image_of_rgb_is_exact(tmp_path):
    np.testing.assert_array_equal(opened(tmp_path, Image.fromarray(RGB)), RGB)


def test_open_image_of_grey_repeats_it(tmp_path):
    np.testing.assert_array_equal(
        opened(tmp_path, Image.fromarray(GREY)), np.repeat(GREY[..., None], 3, 2)
    )


def test_open_image_of_one_bit_is_black_and_white(tmp_path):
    bits = GREY > 127
    np.testing.assert_array_equal(
        opened(tmp_path, Image.fromarray(bits)), np.repeat(bits[..., None] * np.uint8(255), 3, 2)
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_open_image_with_alpha_drops_it(tmp_path, mode):
    colour = RGB if mode == "RGBA" else GREY[..., None]
    alpha = np.full((12, 10, 1), 3, np.uint8)
    got = opened(tmp_path, Image.fromarray(np.concatenate([colour, alpha], 2), mode))
    np.testing.assert_array_equal(got, np.broadcast_to(colour, (12, 10, 3)))


def png_chunks(width, height, bits, colour_type, scanlines, *, trns):
    """A PNG written by hand, for kinds that PIL does not write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"tRNS", trns) if trns else b"")
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in scanlines)))
        + chunk(b"IEND", b"")
    )


ALPHA = RNG.integers(0, 256, (12, 10), np.uint8)
INDEX = (GREY % 16).astype(np.uint8)
PALETTE = RNG.integers(0, 256, (16, 3), np.uint8)
DEEP = RNG.integers(4096, 65536, (12, 10)).astype(np.uint16)


def palette_image():
    image = Image.frombytes("P", (10, 12), INDEX.tobytes())
    image.putpalette(PALETTE.tobytes())
    return png_bytes(image, transparency=bytes(range(0, 256, 16)))


def deep_grey_alpha():
    lines = [np.stack([g, a.astype(np.uint16) * 257], 1) for g, a in zip(DEEP, ALPHA, strict=True)]
    return png_chunks(10, 12, 16, 4, [line.astype(">u2").tobytes() for line in lines], trns=b"")


TRANSPARENT = {
    "RGBA": (png_bytes(Image.fromarray(np.dstack([RGB, ALPHA]), "RGBA")), RGB, ALPHA),
    "LA": (png_bytes(Image.fromarray(np.dstack([GREY, ALPHA]), "LA")), GREY[..., None], ALPHA),
    "palette": (palette_image(), PALETTE[INDEX], INDEX * np.uint8(16)),
    "a transparent colour": (
        png_bytes(Image.fromarray(RGB), transparency=tuple(RGB[3, 4].tolist())),
        RGB,
        (RGB[3, 4] != RGB).any(2) * np.uint8(255),
    ),
    "a transparent grey": (
        png_bytes(Image.fromarray(GREY), transparency=int(GREY[3, 4])),
        GREY[..., None],
        (GREY[3, 4] != GREY) * np.uint8(255),
    ),
    "16-bit grey and alpha": (deep_grey_alpha(), (DEEP >> 8)[..., None], ALPHA),
    "a transparent 16-bit grey": (
        png_chunks(
            *(10, 12, 16, 0, [line.astype(">u2").tobytes() for line in DEEP]),
            trns=struct.pack(">H", DEEP[3, 4]),
        ),
        (DEEP >> 8)[..., None],
        (DEEP[3, 4] != DEEP) * np.uint8(255),
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0), ("drop", None)])
def test_open_image_with_transparent_pixels_composites_it(tmp_path, kind, background, level):
    encoded, colours, alpha = TRANSPARENT[kind]
    samples = written(tmp_path, encoded)
    got = np.asarray(open_image(samples, 0, background=background))
    opacity = alpha[..., None] / 255
    right = colours if level is None else colours * opacity + level * (1 - opacity)
    assert np.abs(got - np.broadcast_to(right, got.shape)).max() <= (0 if level is None else 1)
    out = np.zeros((1, 3, 6, 6), np.uint8)
    transform = replace(SMALL, background=background)
    assert decode_rows(samples, [transform], RowRange(0, 1), [out]) == ({}, 1)
    resized = transform.resize_and_crop(Image.fromarray(got))
    np.testing.assert_array_equal(out[0], resized)


@pytest.mark.parametrize("background", ["white", "drop"])
def test_decode_rows_of_an_opaque_image_with_alpha_counts_it_not(tmp_path, background):
    opaque = Image.fromarray(np.dstack([RGB, np.full_like(ALPHA, 255)]), "RGBA")
    samples = written(tmp_path, opaque)
    failures, out = decoded(samples, replace(SMALL, background=background))
    assert failures == ({}, 0)
    np.testing.assert_array_equal(out, decoded(written(tmp_path, Image.fromarray(RGB)))[1])


@pytest.mark.parametrize("transparency", [None, 0, bytes(range(16))])
def test_open_image_of_a_palette_gives_its_colours_without_a_warning(tmp_path, transparency):
    index = (GREY % 16).astype(np.uint8)
    palette = RNG.integers(0, 256, (16, 3), np.uint8)
    image = Image.fromarray(index).convert("P")
    image = Image.frombytes("P", (10, 12), index.tobytes())
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(opened(tmp_path, image, **options), palette[index])


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_open_image_of_16_bit_grey_scales_it(tmp_path, name):
    deep = RNG.integers(0, 65536, (12, 10)).astype(np.uint16)
    samples = written(
        tmp_path, Image.fromarray(deep.astype(np.int32) if name == "x.pgm" else deep), name
    )
    np.testing.assert_array_equal(np.asarray(open_image(samples, 0))[..., 1], deep >> 8)
    assert np.asarray(samples.load(0).convert("RGB")).mean() > 250, (
        "what the usual pipeline gives: nearly all white"
    )


def test_open_image_of_16_bit_grey_agrees_with_16_bit_colour(tmp_path):
    deep = RNG.integers(0, 65536, (4, 4)).astype(np.uint16)
    scanlines = b"".join(
        b"\0" + np.repeat(row[:, None], 3, 1).astype(">u2").tobytes() for row in deep
    )

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(scanlines))
        + chunk(b"IEND", b"")
    )
    colour = opened(tmp_path, png, "colour.png")
    np.testing.assert_array_equal(opened(tmp_path, Image.fromarray(deep), "grey.png"), colour)


def test_open_image_of_cmyk_converts_it_as_pil_does(tmp_path):
    cmyk = np.zeros((8, 8, 4), np.uint8)
    cmyk[..., 0] = 255  # cyan ink alone
    got = opened(tmp_path, Image.fromarray(cmyk, "CMYK"), "x.jpg", quality=100)
    assert got[..., 0].max() < 10
    assert got[..., 1:].min() > 245


def test_open_image_with_exif_orientation_does_not_apply_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert opened(tmp_path, Image.fromarray(RGB), "x.jpg", exif=exif).shape == (12, 10, 3)


def test_open_image_of_several_frames_gives_the_first(tmp_path):
    frames = [Image.new("RGB", (5, 4), c) for c in ("red", "blue")]
    assert opened(tmp_path, frames[0], "x.gif", save_all=True, append_images=frames[1:])[
        0, 0
    ].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an image, or empty"),
        (b"<html>404</html>", "not an image, or empty"),
        (png_bytes(Image.fromarray(RGB))[:200], "truncated"),
    ],
    ids=["empty", "text", "cut"],
)
def test_open_image_of_a_broken_file_names_the_sample(tmp_path, data, reason):
    with pytest.raises(DataError, match=rf"sample 'broken\.png' cannot be decoded: .*{reason}"):
        open_image(written(tmp_path, data, "broken.png"), 0)


def test_open_image_of_a_truncated_jpeg_raises(tmp_path):
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (200, 200, 3), np.uint8)).save(file, "JPEG")
    with pytest.raises(DataError, match=r"'cut\.jpg' cannot be decoded: .*truncated"):
        open_image(written(tmp_path, file.getvalue()[: len(file.getvalue()) // 2], "cut.jpg"), 0)


def test_open_image_of_a_missing_file_names_the_sample(tmp_path):
    with pytest.raises(DataError, match=r"'gone\.png' cannot be decoded: .*No such file"):
        open_image(FileSamples(str(tmp_path), ["gone.png"], np.zeros(1, np.int64)), 0)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_open_image_of_pixels_without_a_white_point_raises(tmp_path, dtype):
    with pytest.raises(DataError, match="store it with 8 or 16 bits"):
        opened(tmp_path, Image.fromarray(np.ones((4, 4), dtype)), "x.tif")


def test_open_image_of_a_decompression_bomb_raises_and_of_a_large_image_is_silent(
    tmp_path, monkeypatch
):
    samples = written(tmp_path, Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    open_image(samples, 0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DataError, match=r"'x\.png' cannot be decoded: .*decompression bomb"):
        open_image(samples, 0)


def test_open_image_in_many_threads_restores_the_warning_filters(tmp_path):
    samples = written(tmp_path, Image.fromarray(RGB))
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [open_image(samples, 0) for _ in range(20)])
        for _ in range(4)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert warnings.filters == before


def test_open_image_with_a_draft_is_no_smaller_than_it_and_near_the_exact_decode(tmp_path):
    smooth = Image.fromarray(RNG.integers(0, 256, (8, 8, 3), np.uint8)).resize(
        (800, 600), Image.Resampling.BICUBIC
    )
    samples = written(tmp_path, smooth, "x.jpg", quality=95)
    draft = open_image(samples, 0, draft=(256, 256))
    assert draft.size == (400, 300)
    exact = open_image(samples, 0)
    assert exact.size == (800, 600)
    difference = np.abs(
        np.asarray(exact.resize((400, 300), Image.Resampling.BOX), int) - np.asarray(draft, int)
    )
    assert 0 < difference.mean() < 2


def decoded(samples, preprocessing=SMALL):
    out = np.full((len(samples.ids), 3, *preprocessing.input_size), 7, np.uint8)
    rows = RowRange(0, len(samples.ids))
    return decode_rows(samples, [preprocessing], rows, [out]), out


def test_decode_rows_of_a_very_narrow_image_names_it_and_takes_little_memory(tmp_path, monkeypatch):
    samples = written(tmp_path, Image.new("L", (20000, 1)), "narrow.png")
    large = replace(SMALL, input_size=(224, 224), resize=(256, 256))
    tracemalloc.start()
    failures, out = decoded(samples, large)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()
    assert failures.failures == {
        0: "sample 'narrow.png' cannot be preprocessed: its 20000 x 1 pixels would be scaled to "
        f"5120000 x 256, expected at most {Image.MAX_IMAGE_PIXELS} pixels: cut it to a less "
        "extreme shape"
    }
    assert not out.any()


def test_decode_rows_without_memory_raises_with_the_sample(tmp_path, monkeypatch):
    samples = written(tmp_path, Image.fromarray(RGB))

    def exhaust(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "load", exhaust)
        with pytest.raises(WorkerError, match=r"sample 'x\.png': the memory did not suffice"):
            decoded(samples)
    with monkeypatch.context() as patch:
        patch.setattr(type(SMALL), "resize_and_crop", exhaust)
        with pytest.raises(WorkerError, match=r"sample 'x\.png': the memory did not suffice"):
            decoded(samples)
    assert decoded(samples)[0].failures == {}


def ftyp(brand):
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200)


def tiff(bands, bits, *, height=2, width=2, data=None):
    """Return an uncompressed TIFF; its pixels are zero by default."""
    data = bytes(height * width * bands * 2) if data is None else data
    entries = [
        *((256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1)),
        *((273, 4, 200), (277, 3, bands), (278, 3, height), (279, 4, len(data))),
    ]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4)
    return head.ljust(200, b"\0") + data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (ftyp(b"heic"), "HEIC, whatever its name says, .*: convert it to PNG or JPEG"),
        (ftyp(b"isom"), "a video"),
        (tiff(7, 8), r"a TIFF with 7 band\(s\) of 8 bits, .*: store one or three bands"),
        (b"II*\0\xff\xff\xff\xff", "a damaged TIFF"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\n<!DOCTYPE html>", "a web page"),
        (b"<svg xmlns=''>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS, .*run git lfs pull"),
    ],
)
def test_open_image_of_another_kind_of_file_says_what_it_is(tmp_path, data, reason):
    with pytest.raises(DataError, match=rf"sample 'x\.jpg' cannot be decoded: {reason}"):
        open_image(written(tmp_path, data, "x.jpg"), 0)


def test_open_image_of_postscript_never_starts_ghostscript(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "EPS")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    samples = written(tmp_path, file.getvalue(), "x.png")
    with pytest.raises(DataError, match=r"'x\.png' cannot be decoded: a PostScript file"):
        open_image(samples, 0)


def test_open_image_of_12_bits_stored_in_16_is_refused(tmp_path):
    deep = RNG.integers(1, 4096, (12, 10)).astype(np.uint16)
    samples = written(tmp_path, Image.fromarray(deep), "x.tif")
    with pytest.raises(
        DataError, match=r"its 16-bit pixels are at most 40\d+, .*: scale them to 0"
    ):
        open_image(samples, 0)
    scaled = opened(tmp_path, Image.fromarray(deep << 4), "x.tif")
    np.testing.assert_array_equal(scaled[..., 0], deep >> 4)
    black = opened(tmp_path, Image.fromarray(np.zeros((4, 4), np.uint16)), "x.tif")
    assert not black.any()


def test_open_image_of_a_12_bit_tiff_scales_it(tmp_path):
    # two pixels of 12 bits in three bytes: 0xFFF and 0x800
    data = tiff(1, 12, height=1, width=2, data=b"\xff\xf8\x00")
    assert opened(tmp_path, data, "x.tif")[0, :, 0].tolist() == [255, 128]
