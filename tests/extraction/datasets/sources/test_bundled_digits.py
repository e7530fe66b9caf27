import numpy as np

from layercache.extraction.datasets import dataset_identity, open_dataset
from layercache.extraction.pipeline.decode import open_image


def test_digits_equal_scikit_learns():
    from sklearn.datasets import load_digits

    dataset, source = open_dataset("digits"), load_digits()
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train.ids), len(test.ids), dataset.classes) == (1437, 360, tuple("0123456789"))
    assert sorted(train.ids + test.ids) == [f"digits/{i:06d}" for i in range(1797)]
    for samples in (train, test):
        index = [int(i[-6:]) for i in samples.ids]
        np.testing.assert_array_equal(samples.labels, source.target[index])
        assert (
            np.abs(
                np.bincount(samples.labels) / len(index) - np.bincount(source.target) / 1797
            ).max()
            < 0.003
        )
        for row in (0, 100, 359):
            np.testing.assert_array_equal(
                np.asarray(open_image(samples, row))[..., 0],
                np.round(source.images[index[row]] / 16 * 255),
            )


def test_digits_split_never_changes():
    """Pinned, since published numbers on digits depend on it."""
    identity = dataset_identity(open_dataset("digits"))
    assert (identity.splits["train"].ids[:16], identity.splits["test"].ids[:16]) == DIGITS


DIGITS = ("11b0d2af231d82fc", "eadc210424196526")
