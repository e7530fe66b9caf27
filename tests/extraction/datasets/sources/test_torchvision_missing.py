"""Named datasets whose files are missing, and their download by torchvision."""

import pytest
import torchvision

from layercache.errors import DataNotFoundError
from layercache.extraction.datasets import DATASETS, open_dataset

TORCHVISION = [
    name for name, info in DATASETS.items() if not info.how_to_get.startswith(("wds", "bundled"))
]


@pytest.mark.parametrize("name", TORCHVISION)
def test_open_dataset_missing_raises_with_location_and_remedy(tmp_path, name):
    remedy = (
        f"layercache datasets {name} --download --data-root {tmp_path}"
        if DATASETS[name].how_to_get == "download"
        else "by hand"
    )
    with pytest.raises(
        DataNotFoundError,
        match=f"dataset {name}: expected a complete copy below {tmp_path}, got none .*get it: "
        f"{remedy}",
    ):
        open_dataset(name, root=tmp_path)


@pytest.mark.parametrize("name", [n for n in TORCHVISION if DATASETS[n].how_to_get != "download"])
def test_open_dataset_download_that_torchvision_lacks_raises(tmp_path, name):
    with pytest.raises(DataNotFoundError, match="torchvision cannot download it"):
        open_dataset(name, root=tmp_path, download=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("flowers", "Flowers102"),
        ("cifar10", "CIFAR10"),
        ("voc2007", "VOCDetection"),
        ("caltech101", "Caltech101"),
    ],
)
def test_open_dataset_download_is_passed_to_torchvision(tmp_path, monkeypatch, name, kind):
    calls = []

    def stand_in(root, **options):
        calls.append((root, options))
        raise RuntimeError("no network here")

    monkeypatch.setattr(torchvision.datasets, kind, stand_in)
    with pytest.raises(DataNotFoundError, match="no network here"):
        open_dataset(name, root=tmp_path, download=True)
    assert calls[0][0] == str(tmp_path)
    assert calls[0][1]["download"] is True
