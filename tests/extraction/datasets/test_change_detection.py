import io
import os
import pickle
import platform
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from layercache.errors import DataChangedError, DataError
from layercache.extraction.datasets.change_detection import Stamps
from layercache.extraction.datasets.image_files import FileSamples
from layercache.extraction.datasets.sources.webdataset import open_webdataset
from layercache.extraction.pipeline.decode import open_image


def bmp(colour):
    """An encoded image whose size does not depend on its colour."""
    file = io.BytesIO()
    Image.new("RGB", (5, 4), colour).save(file, "BMP")
    return file.getvalue()


RED, BLUE = bmp("red"), bmp("blue")


def write_tar(path, data):
    with tarfile.open(path, "w") as archive:
        for name, content in (("a.bmp", data), ("a.cls", b"0")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def make_files(folder):
    samples = FileSamples(str(folder), ["a.bmp"], np.zeros(1, np.int64))
    return samples, folder / "a.bmp", lambda data: (folder / "a.bmp").write_bytes(data)


def make_tars(folder):
    (folder / "train").mkdir()
    (folder / "train/nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("cat\n")
    tar = folder / "train/0.tar"
    write_tar(tar, RED)
    return open_webdataset(folder).split("train"), tar, lambda data: write_tar(tar, data)


@pytest.fixture(params=[make_files, make_tars])
def source(request, tmp_path):
    """A sample in a file that has not been read yet, the file, and a function that writes it."""
    samples, file, write = request.param(tmp_path)
    write(RED)
    return samples, file, write


@pytest.mark.parametrize("max_hashed_bytes", [1 << 30, 1])
def test_open_image_that_changed_since_the_digest_raises_and_names_it(source, max_hashed_bytes):
    samples, file, write = source
    samples = replace(samples, max_hashed_bytes=max_hashed_bytes)
    assert samples.content_digest.startswith("bytes:" if max_hashed_bytes > 1 else "sizes:")
    sent = pickle.dumps(samples)  # a worker process opens the file itself
    assert open_image(pickle.loads(sent), 0).getpixel((0, 0)) == (255, 0, 0)
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    write(BLUE)
    os.utime(file, ns=(times[0], times[1] + 10**9))
    name = samples.ids[0]
    with pytest.raises(DataChangedError, match=rf"sample '{name}' has changed since the dataset"):
        open_image(pickle.loads(sent), 0)
    write(RED)
    os.utime(file, ns=times)
    assert open_image(pickle.loads(sent), 0).getpixel((0, 0)) == (255, 0, 0)


def test_open_image_with_the_same_bytes_and_another_time_is_no_change(source):
    samples, file, _ = source
    assert samples.content_digest
    os.utime(file, ns=(1, 1))
    open_image(samples, 0)


def test_open_image_with_other_bytes_and_the_same_time_raises_if_bytes_were_read(source):
    samples, file, write = source
    assert samples.content_digest
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    write(BLUE)
    os.utime(file, ns=times)
    with pytest.raises(DataChangedError, match=r"expected the same 1\d+ bytes as before"):
        open_image(samples, 0)


@pytest.mark.parametrize("max_hashed_bytes", [1 << 30, 1])
def test_open_image_that_is_gone_or_appears_later_raises(source, max_hashed_bytes):
    samples, file, write = source
    samples = replace(samples, max_hashed_bytes=max_hashed_bytes)
    assert samples.content_digest
    sent = pickle.dumps(samples)
    if isinstance(samples, FileSamples):
        file.unlink()
    else:
        os.truncate(file, 100)
    with pytest.raises(DataChangedError, match=r"could be read before, and cannot be now"):
        open_image(pickle.loads(sent), 0)
    if isinstance(samples, FileSamples):
        absent = replace(samples)
        assert list(absent.unreadable) == ["a.bmp"]
        with pytest.raises(DataError, match="cannot be decoded"):
            open_image(absent, 0)
        write(RED)
        with pytest.raises(DataChangedError, match="could not be read before, and can be now"):
            open_image(absent, 0)


def test_open_image_without_a_digest_compares_nothing(source):
    samples, _, write = source
    open_image(samples, 0)
    write(BLUE)
    open_image(samples, 0)


def test_stamps_of_another_machine_compare_no_times():
    stamps = Stamps(np.asarray([3]), mtimes=np.asarray([5]))
    assert stamps.host == platform.node()
    with pytest.raises(DataChangedError, match="modified"):
        stamps.check(0, b"abc", mtime=6)
    replace(stamps, host="elsewhere").check(0, b"abc", mtime=6)
    with pytest.raises(DataChangedError, match="expected 3 bytes as before, got 2"):
        replace(stamps, host="elsewhere").check(0, b"ab", mtime=5)


def test_load_costs_two_fstat_calls(tmp_path, monkeypatch):
    samples, _, write = make_files(tmp_path)
    write(RED)
    assert replace(samples, max_hashed_bytes=1).content_digest
    calls = []
    fstat, stat = os.fstat, os.stat
    monkeypatch.setattr(os, "fstat", lambda fd: calls.append(fd) or fstat(fd))
    monkeypatch.setattr(os, "stat", lambda *a, **k: calls.append(a) or stat(*a, **k))
    samples.load(0)
    assert len(calls) <= 2
