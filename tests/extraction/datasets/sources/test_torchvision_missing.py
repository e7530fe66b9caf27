"""Named datasets whose files are missing."""

import pytest

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
        match=f"dataset {name}: expected a complete copy below {tmp_path}, got none .*{remedy}",
    ):
        open_dataset(name, root=tmp_path, offline=True)


@pytest.mark.parametrize("name", [n for n in TORCHVISION if DATASETS[n].how_to_get != "download"])
def test_open_dataset_without_official_download_asks_for_a_copy(tmp_path, name):
    with pytest.raises(DataNotFoundError, match="Give its data root, or get it: by hand"):
        open_dataset(name, root=tmp_path)
