import numpy as np

from layercache.extraction.datasets.arrays import ArraySamples


def test_content_digest_of_a_large_array_covers_a_sample():
    def digest(rows):
        array = np.zeros((rows, 28, 28), np.uint8)
        samples = ArraySamples(
            lambda: array, labels=np.zeros(rows), prefix="x", max_hashed_bytes=28 * 28 * 5
        )
        return samples.content_digest

    assert digest(6).startswith("sample:")
    assert digest(4).startswith("bytes:")
