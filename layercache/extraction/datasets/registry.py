"""The datasets that have a name: the table behind `layercache datasets`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One named dataset, as `layercache datasets` lists it."""

    name: str
    """Name for --dataset."""
    num_classes: int
    """Number of classes C."""
    num_train: int
    """Number of training images."""
    num_test: int
    """Number of test images."""
    how_to_get: str
    """"bundled", "download" (by torchvision), or instructions to place the files by hand."""
    note: str = ""
    """Composition of the splits, and the reason where the paper's training size differs."""
    multi_label: bool = False
    """True if an image may have several classes."""


DOWNLOAD = "download"

# name, number of classes, training images, test images
_SIZES = (
    ("flowers", 102, 1020, 6149),
    ("pets", 37, 3680, 3669),
    ("dtd", 47, 1880, 1880),
    ("cifar10", 10, 50000, 10000),
    ("cifar100", 100, 50000, 10000),
    ("caltech101", 102, 3060, 6084),
    ("stl10", 10, 5000, 8000),
    ("svhn", 10, 73257, 26032),
    ("gtsrb", 43, 26640, 12630),
    ("country211", 211, 31650, 21100),
    ("fgvc_aircraft", 100, 3334, 3333),
    ("cars", 196, 8144, 8041),
    ("eurosat", 10, 16200, 5400),
    ("fer2013", 7, 28709, 7178),
    ("pcam", 2, 262144, 32768),
    ("voc2007", 20, 5011, 4952),
    ("voc2007_multilabel", 20, 5011, 4952),
    ("voc2007_crops", 20, 7844, 14976),
    ("imagenet", 1000, 1281167, 50000),
    ("resisc45", 45, 18900, 6300),
    ("dmlab", 6, 65550, 22735),
    ("diabetic_retinopathy", 5, 35126, 42670),
    ("fashion_mnist", 10, 60000, 10000),
    ("digits", 10, 1437, 360),
    ("photos", 12, 1008, 252),
)

_WDS = "wds: tars in the clip-benchmark layout in ROOT/{0} or ROOT/wds_vtab-{0}"
_HOW_TO_GET = {
    "cars": (
        "by hand: "
        "ROOT/stanford_cars/{devkit,cars_train,cars_test,cars_test_annos_withlabels.mat} (the "
        "official address is dead)"
    ),
    "fer2013": "by hand: fer2013.csv or icml_face_data.csv of Kaggle's challenge in ROOT/fer2013",
    "imagenet": (
        "by hand: ROOT or ROOT/imagenet with train/, val/ and meta.bin, or the three official "
        "archives, which torchvision unpacks"
    ),
    "resisc45": _WDS.format("resisc45"),
    "dmlab": _WDS.format("dmlab"),
    "diabetic_retinopathy": _WDS.format("diabetic_retinopathy"),
    "digits": "bundled",
    "photos": "bundled",
}
"""Name -> instructions, for the datasets that torchvision cannot download."""

_HELD_OUT = (
    "the paper trained on {0} and held out {1} for validation; "
    "here the probe holds out 20 % of the full training split"
)
_NOTES = {
    "flowers": "the official training split; the validation split is not used",
    "pets": "trainval and test; " + _HELD_OUT.format("2944", "20 %"),
    "dtd": "split 1 of 10; the validation split is not used",
    "cifar10": _HELD_OUT.format("45000", "10 %"),
    "cifar100": _HELD_OUT.format("45000", "10 %"),
    "caltech101": (
        "30 training images of every class, background included, drawn with seed 0 (it has no "
        "official split); " + _HELD_OUT.format("2753", "10 %")
    ),
    "svhn": "without the extra split; " + _HELD_OUT.format("65931", "10 %"),
    "country211": "the validation split is not used",
    "fgvc_aircraft": (
        "variants; the training split, as in the paper (torchvision's default is trainval)"
    ),
    "eurosat": (
        "60 % and 20 % of 27000, drawn class by class with seed 0 (it has no official split; "
        "sizes as in the paper, other images); 20 % are not used"
    ),
    "pcam": "needs the extra pcam; the validation split is not used",
    "voc2007": (
        "trainval and test; an image has the class of its first annotated object. The paper's "
        "7844 images are voc2007_crops"
    ),
    "voc2007_multilabel": (
        "trainval and test; all classes with an object in the image, difficult ones included"
    ),
    "voc2007_crops": (
        "as in the paper: every annotated object cut out, difficult ones included; official "
        "train and test"
    ),
    "imagenet": "test is the official validation split",
    "fashion_mnist": "not in the paper",
    "digits": "scikit-learn's 8 x 8 digits, 80 % and 20 % drawn with seed 0; not in the paper",
    "photos": (
        "patches of scikit-learn's two photographs (CC BY 2.0: danielbuechele, vultilion); the "
        "class is the region a patch was cut from; not in the paper"
    ),
}

DATASETS = {
    name: DatasetInfo(
        name=name,
        num_classes=num_classes,
        num_train=num_train,
        num_test=num_test,
        how_to_get=_HOW_TO_GET.get(name, DOWNLOAD),
        note=_NOTES.get(name, ""),
        multi_label=name == "voc2007_multilabel",
    )
    for name, num_classes, num_train, num_test in _SIZES
}
"""Name -> the paper's twenty, two more forms of VOC, Fashion-MNIST, digits and photos."""

SOURCE_FORMS = {
    "folder:PATH": (
        "PATH/<class>/image.jpg (20 % held out for test) or "
        "PATH/{train,val,test}/<class>/image.jpg (val is optional and selects in probes)"
    ),
    "wds:PATH": (
        "tars in the clip-benchmark layout: PATH/{train,val,test}/0.tar.., nshards.txt, "
        "classnames.txt (val is optional)"
    ),
    "hf:NAME": "a Hugging Face dataset, by name or saved on disk; needs the extra hf",
    "csv:FILE": "columns path, label (several joined by ';') and optionally split",
}
"""Form of a name for the user's own images -> the files that it expects."""


def list_datasets() -> list[DatasetInfo]:
    """Return the datasets that have a name, as `layercache datasets` lists them.

    Images of your own go by their source, as in "folder:PATH"; see `open_dataset`.

    >>> pandas.DataFrame(layercache.list_datasets())[["name", "num_train"]]  # doctest: +SKIP
    """
    return list(DATASETS.values())
