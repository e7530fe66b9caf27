import os
from dataclasses import replace

import pytest

from layercache.errors import DataError
from layercache.extraction.datasets import describe_dataset
from layercache.extraction.datasets.image_files import MAX_FILE_BYTES
from layercache.extraction.pipeline.decode import open_image


def test_content_digest_of_large_files_covers_their_sizes(many, tmp_path):
    samples = many.split("train")
    assert samples.content_digest.startswith("bytes:")
    by_size = replace(samples, max_hashed_bytes=100)
    assert by_size.content_digest.startswith("sizes:")
    with open(tmp_path / "00.png", "ab") as f:
        f.write(b"x")
    assert replace(by_size).content_digest != by_size.content_digest


def test_load_of_a_huge_file_refuses_it_before_it_is_read(many, tmp_path):
    os.truncate(tmp_path / "00.png", MAX_FILE_BYTES + 1)
    samples = many.split("train")
    with pytest.raises(DataError, match=r"'00\.png' cannot be decoded: .*expected an image of at"):
        open_image(samples, 0)
    assert samples.content_digest.startswith("sizes:")
    last = list(describe_dataset(many))[-1]
    assert last.startswith("train has more than 1.")
    assert last.endswith("so other splits were not searched for its images")
