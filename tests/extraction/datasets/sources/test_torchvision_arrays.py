"""Arrays read from torchvision's files without torch equal torchvision's and the written ones."""

import csv
import gzip
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import scipy.io
import torchvision

from layercache.errors import DataNotFoundError, MissingExtraError
from layercache.extraction.datasets import (
    check_labels,
    dataset_identity,
    limit_samples,
    open_dataset,
)
from layercache.extraction.pipeline.decode import open_image

RNG = np.random.default_rng(7)


def images(n, *shape):
    return RNG.integers(0, 256, (n, *shape), np.uint8)


def check(dataset, split, x, y, reference):
    """Written x (N, H, W[, 3]) and labels y; `reference` is torchvision's dataset."""
    samples = dataset.split(split)
    assert samples.ids == [f"{split}/{i:06d}" for i in range(len(x))]
    assert samples.labels.tolist() == list(y)
    assert samples.labels.dtype == np.int64
    unpickled = pickle.loads(pickle.dumps(samples))
    assert len(pickle.dumps(samples)) < 3000 + x.nbytes / 4, "images are not pickled"
    for row in range(len(x)):
        expected = x[row] if x.ndim == 4 else np.repeat(x[row][..., None], 3, 2)
        np.testing.assert_array_equal(np.asarray(open_image(samples, row)), expected)
        np.testing.assert_array_equal(np.asarray(open_image(unpickled, row)), expected)
        np.testing.assert_array_equal(np.asarray(reference[row][0].convert("RGB")), expected)
        assert reference[row][1] == y[row]
    assert unpickled.content_digest == samples.content_digest


def idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    header = (0x0800 | array.ndim).to_bytes(4, "big") + b"".join(
        n.to_bytes(4, "big") for n in array.shape
    )
    path.write_bytes(header + array.tobytes())
    with gzip.open(f"{path}.gz", "wb") as f:
        f.write(header + array.tobytes())


def fashion_mnist(root):
    written = {}
    for split, stem, n in (("train", "train", 6), ("test", "t10k", 4)):
        x, y = images(n, 28, 28), RNG.integers(0, 10, n).astype(np.uint8)
        idx(root / f"FashionMNIST/raw/{stem}-images-idx3-ubyte", x)
        idx(root / f"FashionMNIST/raw/{stem}-labels-idx1-ubyte", y)
        written[split] = (x, y.tolist())
    return {
        split: (*xy, torchvision.datasets.FashionMNIST(root, split == "train"))
        for split, xy in written.items()
    }


def test_fashion_mnist_equals_torchvision(tmp_path):
    written = fashion_mnist(tmp_path)
    dataset = open_dataset("fashion_mnist", root=tmp_path)
    assert dataset.classes[9] == "Ankle boot"
    for split, rest in written.items():
        check(dataset, split, *rest)


def test_content_digest_depends_on_pixels_and_rows(tmp_path):
    fashion_mnist(tmp_path)
    before = dataset_identity(open_dataset("fashion_mnist", root=tmp_path))
    assert dataset_identity(open_dataset("fashion_mnist", root=tmp_path)) == before
    few = limit_samples(open_dataset("fashion_mnist", root=tmp_path), 3).split("train")
    assert few.content_digest != before.splits["train"].content
    path = tmp_path / "FashionMNIST/raw/train-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    after = dataset_identity(open_dataset("fashion_mnist", root=tmp_path))
    assert after.splits["train"].content != before.splits["train"].content
    assert after.splits["test"] == before.splits["test"]


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifar_equals_torchvision(tmp_path, monkeypatch, kind):
    torchvision_class = getattr(torchvision.datasets, kind.upper())
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(
            torchvision_class,
            attribute,
            [[name, None] for name, _ in getattr(torchvision_class, attribute)],
        )
    monkeypatch.setattr(torchvision_class, "meta", {**torchvision_class.meta, "md5": None})
    base = tmp_path / torchvision_class.base_folder
    base.mkdir()
    classes = [f"class {i}" for i in range(10 if kind == "cifar10" else 100)]
    (base / torchvision_class.meta["filename"]).write_bytes(
        pickle.dumps({torchvision_class.meta["key"]: classes})
    )
    written = {"train": ([], []), "test": ([], [])}
    for split, files in (
        ("train", torchvision_class.train_list),
        ("test", torchvision_class.test_list),
    ):
        for name, _ in files:
            x, y = images(3, 32, 32, 3), RNG.integers(0, len(classes), 3).tolist()
            entry = {
                "data": x.transpose(0, 3, 1, 2).reshape(3, -1),
                "labels" if kind == "cifar10" else "fine_labels": y,
            }
            (base / name).write_bytes(pickle.dumps(entry, protocol=2))
            written[split][0].append(x)
            written[split][1].extend(y)
    dataset = open_dataset(kind, root=tmp_path)
    assert dataset.classes == tuple(classes)
    for split, (x, y) in written.items():
        check(dataset, split, np.concatenate(x), y, torchvision_class(tmp_path, split == "train"))


@pytest.mark.parametrize("folder", ["", "svhn"])
def test_svhn_equals_torchvision(tmp_path, monkeypatch, folder):
    torchvision_class = torchvision.datasets.SVHN
    monkeypatch.setattr(
        torchvision_class,
        "split_list",
        {k: [url, name, None] for k, (url, name, _) in torchvision_class.split_list.items()},
    )
    root = tmp_path / folder
    root.mkdir(exist_ok=True)
    written = {}
    for split, y in (("train", [10, 1, 9]), ("test", [5, 10])):
        x = images(len(y), 32, 32, 3)
        scipy.io.savemat(
            root / f"{split}_32x32.mat",
            {"X": x.transpose(1, 2, 3, 0), "y": np.array(y, np.uint8)[:, None]},
        )
        written[split] = (x, [c % 10 for c in y], torchvision_class(root, split))
    dataset = open_dataset("svhn", root=tmp_path)
    assert dataset.classes == tuple("0123456789")
    for split, rest in written.items():
        check(dataset, split, *rest)


def test_stl10_equals_torchvision(tmp_path, monkeypatch):
    torchvision_class = torchvision.datasets.STL10
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(
            torchvision_class,
            attribute,
            [[name, None] for name, _ in getattr(torchvision_class, attribute)],
        )
    base = tmp_path / "stl10_binary"
    base.mkdir()
    classes = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (base / "class_names.txt").write_text("\n".join(classes) + "\n")
    (base / "unlabeled_X.bin").write_bytes(b"")
    written = {}
    for split, n in (("train", 3), ("test", 2)):
        x, y = images(n, 96, 96, 3), RNG.integers(0, 10, n)
        (base / f"{split}_X.bin").write_bytes(
            np.ascontiguousarray(x.transpose(0, 3, 2, 1)).tobytes()
        )
        (base / f"{split}_y.bin").write_bytes((y + 1).astype(np.uint8).tobytes())
        written[split] = (x, y.tolist())
    dataset = open_dataset("stl10", root=tmp_path)
    assert dataset.classes == tuple(classes)
    for split, (x, y) in written.items():
        check(dataset, split, x, y, torchvision_class(tmp_path, split))


@pytest.mark.parametrize("file", ["fer2013.csv", "icml_face_data.csv"])
def test_fer2013_equals_torchvision(tmp_path, monkeypatch, file):
    torchvision_class = torchvision.datasets.FER2013
    monkeypatch.setattr(
        torchvision_class,
        "_RESOURCES",
        {k: (name, None) for k, (name, _) in torchvision_class._RESOURCES.items()},
    )
    (tmp_path / "fer2013").mkdir()
    x, y = images(5, 48, 48), [3, 0, 6, 4, 1]
    usage = ["Training", "PublicTest", "Training", "PrivateTest", "Training"]
    columns = (
        ["emotion", "pixels", "Usage"]
        if file == "fer2013.csv"
        else ["emotion", " Usage", " pixels"]
    )
    with open(tmp_path / "fer2013" / file, "w", newline="") as f:
        rows = csv.DictWriter(f, columns)
        rows.writeheader()
        for image, label, use in zip(x, y, usage, strict=True):
            values = {"emotion": label, "pixels": " ".join(map(str, image.ravel())), "Usage": use}
            rows.writerow({c: values[c.strip()] for c in columns})
    dataset = open_dataset("fer2013", root=tmp_path)
    assert dataset.classes == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    check(dataset, "train", x[[0, 2, 4]], [3, 6, 1], torchvision_class(tmp_path, "train"))
    check(dataset, "test", x[[1, 3]], [0, 4], torchvision_class(tmp_path, "test"))


def test_fer2013_without_test_labels_says_so(tmp_path, monkeypatch):
    torchvision_class = torchvision.datasets.FER2013
    monkeypatch.setattr(
        torchvision_class,
        "_RESOURCES",
        {k: (name, None) for k, (name, _) in torchvision_class._RESOURCES.items()},
    )
    (tmp_path / "fer2013").mkdir()
    pixels = " ".join(["0"] * 48 * 48)
    (tmp_path / "fer2013/train.csv").write_text(f"emotion,pixels\n0,{pixels}\n")
    (tmp_path / "fer2013/test.csv").write_text(f"pixels\n{pixels}\n")
    dataset = open_dataset("fer2013", root=tmp_path)
    (note,) = dataset.notes
    assert note.startswith("the test split has no labels; by hand: fer2013.csv")
    check_labels(dataset, "train")
    assert (dataset.split("test").labels == -1).all()


def pcam(root):
    (root / "pcam").mkdir()
    written = {}
    for split, n in (("train", 4), ("test", 3)):
        x, y = images(n, 96, 96, 3), RNG.integers(0, 2, n)
        with h5py.File(root / f"pcam/camelyonpatch_level_2_split_{split}_x.h5", "w") as f:
            f.create_dataset("x", data=x, chunks=(2, 96, 96, 3), compression="gzip")
        with h5py.File(root / f"pcam/camelyonpatch_level_2_split_{split}_y.h5", "w") as f:
            f.create_dataset("y", data=y.reshape(-1, 1, 1, 1).astype(np.uint8))
        written[split] = (x, y.tolist(), torchvision.datasets.PCAM(root, split))
    return written


def test_pcam_equals_torchvision(tmp_path):
    written = pcam(tmp_path)
    dataset = open_dataset("pcam", root=tmp_path)
    assert dataset.classes == ("normal", "tumour")
    for split, rest in written.items():
        check(dataset, split, *rest)


def test_pcam_without_h5py_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        MissingExtraError,
        match=r"this needs h5py, which is not installed: pip install -e '\.\[pcam\]'",
    ):
        open_dataset("pcam", root=tmp_path)


def test_cifar10_with_a_changed_file_fails_torchvisions_checksum(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name in (
        "data_batch_1",
        "data_batch_2",
        "data_batch_3",
        "data_batch_4",
        "data_batch_5",
        "test_batch",
        "batches.meta",
    ):
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(b"x")
    with pytest.raises(DataNotFoundError, match="not found or corrupted"):
        open_dataset("cifar10", root=tmp_path, offline=True)


@pytest.mark.parametrize("make", [fashion_mnist, pcam])
def test_open_image_of_an_unpickled_array_does_not_import_torch(tmp_path, make):
    make(tmp_path)
    samples = open_dataset(make.__name__, root=tmp_path).split("train")
    (tmp_path / "samples.pickle").write_bytes(pickle.dumps(samples))
    program = (
        "import pickle, sys; from layercache.extraction.pipeline.decode import open_image\n"
        f"s = pickle.load(open({str(tmp_path / 'samples.pickle')!r}, 'rb')); open_image(s, 1)\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
