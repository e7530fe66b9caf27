import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from layercache.errors import DataError, OptionError, UnknownNameError
from layercache.extraction.datasets import (
    data_root,
    dataset_identity,
    dataset_name,
    open_dataset,
)
from layercache.extraction.pipeline.decode import open_image


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("flower", "flowers"),
        ("cifar", "cifar10"),
        ("fashion-mnist", "fashion_mnist"),
        ("dmlap", "dmlab"),
    ],
)
def test_open_dataset_of_an_unknown_name_suggests_the_nearest(name, near):
    with pytest.raises(
        UnknownNameError,
        match=rf"unknown dataset '{name}': did you mean .*{near}.*one of your own: folder:PATH",
    ):
        open_dataset(name)


def test_open_dataset_of_a_path_or_misspelt_kind_suggests_the_form(tmp_path):
    (tmp_path / "t.csv").touch()
    for name, suggestion in (
        (tmp_path, f"folder:{tmp_path}"),
        (f"fodler:{tmp_path}", f"folder:{tmp_path}"),
        (tmp_path / "t.csv", f"csv:{tmp_path}/t.csv"),
    ):
        with pytest.raises(OptionError, match=rf"unknown dataset .*: did you mean {suggestion}\?$"):
            open_dataset(str(name))
    with pytest.raises(
        UnknownNameError,
        match=r"unknown kind of dataset 'fodler': did you mean folder\? \(as in folder:PATH, ",
    ):
        open_dataset("fodler:/nowhere")


def test_open_dataset_of_a_source_needs_a_location_and_no_root():
    with pytest.raises(OptionError, match="expected folder:PATH"):
        open_dataset("folder:")
    with pytest.raises(
        OptionError, match="names its own location: leave out the data root '/data'"
    ):
        open_dataset("wds:/x", root="/data")


def test_data_root_by_default_reads_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LAYERCACHE_DATA", raising=False)
    assert data_root().name == "data"
    assert data_root("~/x") == data_root(os.path.expanduser("~/x"))
    monkeypatch.setenv("LAYERCACHE_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("/y").as_posix() == "/y"


def test_dataset_name_of_a_source_is_its_last_part():
    assert dataset_name("flowers") == "flowers"
    assert dataset_name("hf:uoft-cs/cifar100?label=fine_label") == "cifar100"
    assert dataset_name("csv:/a/b c.csv") == "b_c"
    assert dataset_name("folder:/a/b/../c/") == "c"


def test_datasets_import_loads_nothing_heavy():
    heavy = {"torch", "torchvision", "timm", "sklearn", "zarr"}
    program = (
        "import sys, layercache.extraction.datasets, "
        f"layercache.extraction.pipeline.decode; assert not {heavy} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.real
def test_real_fashion_mnist_has_its_published_sizes_and_labels():
    dataset = open_dataset(
        "fashion_mnist", root=os.path.join(os.environ["LAYERCACHE_REAL"], "data")
    )
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train.ids), len(test.ids)) == (60000, 10000)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:4].tolist() == [9, 0, 0, 3]
    assert open_image(train, 0).size == (28, 28)
    assert (
        dataset_identity(dataset).splits["train"].content
        != dataset_identity(dataset).splits["test"].content
    )


@pytest.mark.parametrize("kind", ["folder", "wds", "csv"])
def test_open_dataset_without_permission_raises_with_the_path(tmp_path, monkeypatch, kind):
    (tmp_path / "train").mkdir()

    def refuse(path, **_):  # chmod does not stop root, which runs the tests in a container
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "stat", refuse)
    with pytest.raises(DataError, match=rf"{kind}:{tmp_path}.* cannot be read: Permission denied"):
        open_dataset(f"{kind}:{tmp_path}")
