import io
import os
import tarfile
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.errors import DataError
from layercache.extraction.datasets.sources import tar_index

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0\n"), min_size=1, max_size=160
).map(lambda s: "d/" + s.replace("/", "_").rstrip(" "))
FILES = st.dictionaries(NAMES, st.binary(max_size=1500), max_size=6)


def write_tar(path, files, fmt):
    with tarfile.open(path, "w", format=fmt) as archive:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("d/link")
        link.type, link.linkname = tarfile.SYMTYPE, "x"
        archive.addfile(link)
    return str(path)


@settings(max_examples=60, deadline=None)
@given(files=FILES, fmt=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_list_members_equals_tarfile(tmp_path_factory, files, fmt):
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", files, fmt)
    with tarfile.open(path) as archive:
        expected = [(m.name, m.offset_data, m.size) for m in archive if m.isfile()]
    members = list(tar_index.list_members(path))
    assert [tuple(m) for m in members] == expected
    assert [tar_index.read_bytes(path, m.offset, m.size) for m in members] == [
        files[m.name] for m in members
    ]
    tar_index.open_tar.cache_clear()


def test_list_members_with_a_ustar_prefix_joins_it(tmp_path):
    name = "a" * 90 + "/" + "b" * 90
    path = write_tar(tmp_path / "x.tar", {name: b"hello"}, tarfile.USTAR_FORMAT)
    assert [m.name for m in tar_index.list_members(path)] == [name]


def test_list_members_with_other_pax_attributes_ignores_them(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(
        path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}
    ) as archive:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.mtime = 3, 1.5
        info.pax_headers = {"comment": "with a\nline end"}
        archive.addfile(info, io.BytesIO(b"abc"))
    (member,) = tar_index.list_members(str(path))
    assert (member.name, tar_index.read_bytes(str(path), member.offset, member.size)) == (
        "a.jpg",
        b"abc",
    )


@pytest.mark.parametrize("size", [300, 512, 700, 1600])
def test_list_members_of_a_truncated_tar_raises(tmp_path, size):
    path = write_tar(tmp_path / "x.tar", {"d/a": bytes(1000), "d/b": b"x"}, tarfile.GNU_FORMAT)
    os.truncate(path, size)
    with pytest.raises(DataError, match=r"x\.tar: the tar is truncated"):
        list(tar_index.list_members(path))


@pytest.mark.parametrize("data", [b"\x1f\x8b" + bytes(range(256)) * 4, b"<html>" * 200])
def test_list_members_of_another_file_raises(tmp_path, data):
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match="got no tar header at 0"):
        list(tar_index.list_members(str(tmp_path / "x.tar")))


def test_list_members_with_a_flipped_bit_raises(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"d/a": b"x"}, tarfile.GNU_FORMAT)
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[514] ^= 1
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(DataError, match="got no tar header at 512"):
        list(tar_index.list_members(path))


def test_open_file_evicted_stays_open_while_referenced(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    file = tar_index.open_tar(str(tmp_path / "x"))
    tar_index.open_tar.cache_clear()
    assert os.pread(file.fd, 3, 0) == b"abc"
    number = file.fd
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def add_member(archive, name, data=b"", kind=tarfile.REGTYPE, linkname="", pax=None):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname, info.pax_headers = len(data), kind, linkname, pax or {}
    archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("name", ["a.jpg", "d/" + "x" * 120 + ".jpg"])
@pytest.mark.parametrize("fmt", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_list_members_of_a_hard_link_gives_the_bytes_of_its_file(tmp_path, name, fmt):
    path = str(tmp_path / "x.tar")
    with tarfile.open(path, "w", format=fmt) as archive:
        add_member(archive, name, b"abc")
        add_member(archive, "b.jpg", kind=tarfile.LNKTYPE, linkname=name)
        add_member(archive, "c.jpg", kind=tarfile.LNKTYPE, linkname="nowhere")
        add_member(archive, "d.jpg", kind=tarfile.SYMTYPE, linkname=name)
        add_member(archive, "e", kind=tarfile.FIFOTYPE)
    ignored = Counter()
    first, second = tar_index.list_members(path, ignored)
    assert (first.name, second.name) == (name, "b.jpg")
    assert tar_index.read_bytes(path, second.offset, second.size) == b"abc"
    assert ignored == {
        "hard link to a file that is not in the tar before it": 1,
        "symbolic link": 1,
        "device, pipe or the like": 1,
    }


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        (b"14 size=-1536\n", "has -1536 bytes, expected at least 0"),
        (b"12 size=two\n", "has a size that is no number"),
        (b"0 size=1\n", "are no pax records"),
        (b"99 size=1\n", "are no pax records"),
        (b"nothing", "are no pax records"),
    ],
)
def test_list_members_with_damaged_attributes_raises(tmp_path, attributes, text):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        add_member(archive, "attributes", attributes, tarfile.XHDTYPE)
        add_member(archive, "a.jpg", b"abc")
    with pytest.raises(DataError, match=f"{text}.*: the tar is damaged"):
        list(tar_index.list_members(str(path)))


def test_list_members_of_a_pipe_raises(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(DataError, match="expected a tar file, got a pipe"):
        list(tar_index.list_members(str(tmp_path / "x.tar")))
