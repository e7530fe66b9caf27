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
_WDS = "wds: tars in the clip-benchmark layout in ROOT/{0} or ROOT/wds_vtab-{0}"
_HELD_OUT = (
    "the paper trained on {0} and held out {1} for validation; "
    "here the probe holds out 20 % of the full training split"
)

_INFOS = (
    DatasetInfo(
        name="flowers",
        num_classes=102,
        num_train=1020,
        num_test=6149,
        how_to_get=DOWNLOAD,
        note="the official training split; the validation split is not used",
    ),
    DatasetInfo(
        name="pets",
        num_classes=37,
        num_train=3680,
        num_test=3669,
        how_to_get=DOWNLOAD,
        note="trainval and test; " + _HELD_OUT.format("2944", "20 %"),
    ),
    DatasetInfo(
        name="dtd",
        num_classes=47,
        num_train=1880,
        num_test=1880,
        how_to_get=DOWNLOAD,
        note="split 1 of 10; the validation split is not used",
    ),
    DatasetInfo(
        name="cifar10",
        num_classes=10,
        num_train=50000,
        num_test=10000,
        how_to_get=DOWNLOAD,
        note=_HELD_OUT.format("45000", "10 %"),
    ),
    DatasetInfo(
        name="cifar100",
        num_classes=100,
        num_train=50000,
        num_test=10000,
        how_to_get=DOWNLOAD,
        note=_HELD_OUT.format("45000", "10 %"),
    ),
    DatasetInfo(
        name="caltech101",
        num_classes=102,
        num_train=3060,
        num_test=6084,
        how_to_get=DOWNLOAD,
        note="30 training images of every class, background included, drawn with seed 0 "
        "(it has no official split); " + _HELD_OUT.format("2753", "10 %"),
    ),
    DatasetInfo(name="stl10", num_classes=10, num_train=5000, num_test=8000, how_to_get=DOWNLOAD),
    DatasetInfo(
        name="svhn",
        num_classes=10,
        num_train=73257,
        num_test=26032,
        how_to_get=DOWNLOAD,
        note="without the extra split; " + _HELD_OUT.format("65931", "10 %"),
    ),
    DatasetInfo(name="gtsrb", num_classes=43, num_train=26640, num_test=12630, how_to_get=DOWNLOAD),
    DatasetInfo(
        name="country211",
        num_classes=211,
        num_train=31650,
        num_test=21100,
        how_to_get=DOWNLOAD,
        note="the validation split is not used",
    ),
    DatasetInfo(
        name="fgvc_aircraft",
        num_classes=100,
        num_train=3334,
        num_test=3333,
        how_to_get=DOWNLOAD,
        note="variants; the training split, as in the paper (torchvision's default is trainval)",
    ),
    DatasetInfo(
        name="cars",
        num_classes=196,
        num_train=8144,
        num_test=8041,
        how_to_get="by hand: ROOT/stanford_cars/{devkit,cars_train,cars_test,"
        "cars_test_annos_withlabels.mat} (the official address is dead)",
    ),
    DatasetInfo(
        name="eurosat",
        num_classes=10,
        num_train=16200,
        num_test=5400,
        how_to_get=DOWNLOAD,
        note="60 % and 20 % of 27000, drawn class by class with seed 0 (it has no official split; "
        "sizes as in the paper, other images); 20 % are not used",
    ),
    DatasetInfo(
        name="fer2013",
        num_classes=7,
        num_train=28709,
        num_test=7178,
        how_to_get="by hand: fer2013.csv or icml_face_data.csv of Kaggle's challenge "
        "in ROOT/fer2013",
    ),
    DatasetInfo(
        name="pcam",
        num_classes=2,
        num_train=262144,
        num_test=32768,
        how_to_get=DOWNLOAD,
        note="needs layercache[pcam]; the validation split is not used",
    ),
    DatasetInfo(
        name="voc2007",
        num_classes=20,
        num_train=5011,
        num_test=4952,
        how_to_get=DOWNLOAD,
        note="trainval and test; an image has the class of its first annotated object. "
        "The paper's 7844 images are voc2007_crops",
    ),
    DatasetInfo(
        name="voc2007_multilabel",
        num_classes=20,
        num_train=5011,
        num_test=4952,
        how_to_get=DOWNLOAD,
        multi_label=True,
        note="trainval and test; all classes with an object in the image, difficult ones included",
    ),
    DatasetInfo(
        name="voc2007_crops",
        num_classes=20,
        num_train=7844,
        num_test=14976,
        how_to_get=DOWNLOAD,
        note="as in the paper: every annotated object cut out, difficult ones included; "
        "official train and test",
    ),
    DatasetInfo(
        name="imagenet",
        num_classes=1000,
        num_train=1281167,
        num_test=50000,
        how_to_get="by hand: ROOT or ROOT/imagenet with train/, val/ and meta.bin, "
        "or the three official archives, which torchvision unpacks",
        note="test is the official validation split",
    ),
    DatasetInfo(
        name="resisc45",
        num_classes=45,
        num_train=18900,
        num_test=6300,
        how_to_get=_WDS.format("resisc45"),
    ),
    DatasetInfo(
        name="dmlab",
        num_classes=6,
        num_train=65550,
        num_test=22735,
        how_to_get=_WDS.format("dmlab"),
    ),
    DatasetInfo(
        name="diabetic_retinopathy",
        num_classes=5,
        num_train=35126,
        num_test=42670,
        how_to_get=_WDS.format("diabetic_retinopathy"),
    ),
    DatasetInfo(
        name="fashion_mnist",
        num_classes=10,
        num_train=60000,
        num_test=10000,
        how_to_get=DOWNLOAD,
        note="not in the paper",
    ),
    DatasetInfo(
        name="digits",
        num_classes=10,
        num_train=1437,
        num_test=360,
        how_to_get="bundled",
        note="scikit-learn's 8 x 8 digits, 80 % and 20 % drawn with seed 0; not in the paper",
    ),
    DatasetInfo(
        name="photos",
        num_classes=12,
        num_train=1008,
        num_test=252,
        how_to_get="bundled",
        note="patches of scikit-learn's two photographs (CC BY 2.0: danielbuechele, vultilion); "
        "the class is the region a patch was cut from; not in the paper",
    ),
)

DATASETS = {info.name: info for info in _INFOS}
"""Name -> the paper's twenty, two more forms of VOC, Fashion-MNIST, digits and photos."""

SOURCE_FORMS = {
    "folder:PATH": (
        "PATH/<class>/image.jpg (20 % held out for test) or PATH/{train,test}/<class>/image.jpg"
    ),
    "wds:PATH": (
        "tars in the clip-benchmark layout: PATH/{train,test}/0.tar.., nshards.txt, classnames.txt"
    ),
    "hf:NAME": "a Hugging Face dataset, by name or saved on disk; needs layercache[hf]",
    "csv:FILE": "columns path, label (several joined by ';') and optionally split",
}
"""Form of a name for the user's own images -> the files that it expects."""
