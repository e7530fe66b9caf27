"""What a person needs to choose a data set: the table behind `layercache datasets`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One named data set."""

    name: str
    """What --dataset takes."""
    classes: int
    """Number of classes C."""
    train: int
    """Training images."""
    test: int
    """Test images."""
    get: str
    """How its files come to the data root: "bundled", "download" (torchvision fetches it) or what to do by hand."""
    note: str = ""
    """What the splits are, and where the paper's training size differs, why (it trained on N images there)."""
    multi_label: bool = False
    """An image may have several classes."""


DOWNLOAD = "download"
_WDS = "wds: tars in the clip-benchmark layout in ROOT/{0} or ROOT/wds_vtab-{0}"
_HELD_OUT = "paper trained on {0}: it had held out {1} for validation; here the probe holds out its own 20 %"

ENTRIES = (
    Entry(
        name="flowers",
        classes=102,
        train=1020,
        test=6149,
        get=DOWNLOAD,
        note="the official training part; the validation part is not used",
    ),
    Entry(
        name="pets",
        classes=37,
        train=3680,
        test=3669,
        get=DOWNLOAD,
        note="trainval and test; " + _HELD_OUT.format("2944", "20 %"),
    ),
    Entry(
        name="dtd",
        classes=47,
        train=1880,
        test=1880,
        get=DOWNLOAD,
        note="split 1 of 10; the validation part is not used",
    ),
    Entry(
        name="cifar10",
        classes=10,
        train=50000,
        test=10000,
        get=DOWNLOAD,
        note=_HELD_OUT.format("45000", "10 %"),
    ),
    Entry(
        name="cifar100",
        classes=100,
        train=50000,
        test=10000,
        get=DOWNLOAD,
        note=_HELD_OUT.format("45000", "10 %"),
    ),
    Entry(
        name="caltech101",
        classes=102,
        train=3060,
        test=6084,
        get=DOWNLOAD,
        note="30 images of every class, background included, drawn with seed 0 (the set has no split); "
        + _HELD_OUT.format("2753", "10 %"),
    ),
    Entry(name="stl10", classes=10, train=5000, test=8000, get=DOWNLOAD),
    Entry(
        name="svhn",
        classes=10,
        train=73257,
        test=26032,
        get=DOWNLOAD,
        note="without the extra part; " + _HELD_OUT.format("65931", "10 %"),
    ),
    Entry(name="gtsrb", classes=43, train=26640, test=12630, get=DOWNLOAD),
    Entry(
        name="country211",
        classes=211,
        train=31650,
        test=21100,
        get=DOWNLOAD,
        note="the validation part is not used",
    ),
    Entry(
        name="fgvc_aircraft",
        classes=100,
        train=3334,
        test=3333,
        get=DOWNLOAD,
        note="variants; the paper's training part, where torchvision's default is trainval (6667)",
    ),
    Entry(
        name="cars",
        classes=196,
        train=8144,
        test=8041,
        get="by hand: ROOT/stanford_cars/{devkit,cars_train,cars_test,cars_test_annos_withlabels.mat} (the official address is dead)",
    ),
    Entry(
        name="eurosat",
        classes=10,
        train=16200,
        test=5400,
        get=DOWNLOAD,
        note="60 and 20 % of 27000 drawn with seed 0 class by class (the set has no split; sizes as in the paper, other images); 20 % are not used",
    ),
    Entry(
        name="fer2013",
        classes=7,
        train=28709,
        test=7178,
        get="by hand: fer2013.csv or icml_face_data.csv of Kaggle's challenge in ROOT/fer2013",
    ),
    Entry(
        name="pcam",
        classes=2,
        train=262144,
        test=32768,
        get=DOWNLOAD,
        note="needs layercache[pcam]; the validation part is not used",
    ),
    Entry(
        name="voc2007",
        classes=20,
        train=5011,
        test=4952,
        get=DOWNLOAD,
        note="trainval and test; an image's class is its first annotated object's. The paper's 7844 are voc2007_crops",
    ),
    Entry(
        name="voc2007_multilabel",
        classes=20,
        train=5011,
        test=4952,
        get=DOWNLOAD,
        multi_label=True,
        note="trainval and test; every class with an object in the image, difficult ones included",
    ),
    Entry(
        name="voc2007_crops",
        classes=20,
        train=7844,
        test=14976,
        get=DOWNLOAD,
        note="the paper's form: every annotated object cut out, difficult ones included; parts train and test",
    ),
    Entry(
        name="imagenet",
        classes=1000,
        train=1281167,
        test=50000,
        get="by hand: ROOT or ROOT/imagenet with train/, val/ and meta.bin, or the three official archives, which torchvision unpacks",
        note="test is the official validation part",
    ),
    Entry(name="resisc45", classes=45, train=18900, test=6300, get=_WDS.format("resisc45")),
    Entry(name="dmlab", classes=6, train=65550, test=22735, get=_WDS.format("dmlab")),
    Entry(
        name="diabetic_retinopathy",
        classes=5,
        train=35126,
        test=42670,
        get=_WDS.format("diabetic_retinopathy"),
    ),
    Entry(
        name="fashion_mnist",
        classes=10,
        train=60000,
        test=10000,
        get=DOWNLOAD,
        note="not in the paper",
    ),
    Entry(
        name="digits",
        classes=10,
        train=1437,
        test=360,
        get="bundled",
        note="scikit-learn's 8 x 8 digits, 80 and 20 % drawn with seed 0; not in the paper",
    ),
    Entry(
        name="photos",
        classes=12,
        train=1008,
        test=252,
        get="bundled",
        note="where a patch of scikit-learn's two photographs (CC BY 2.0: danielbuechele, vultilion) comes from; not in the paper",
    ),
)
"""The paper's twenty, two more forms of VOC, Fashion-MNIST, digits and photos."""

DATASETS = {entry.name: entry for entry in ENTRIES}
"""By name."""

SOURCES = {
    "folder:PATH": "PATH/<class>/image.jpg (20 % held out for test) or PATH/{train,test}/<class>/image.jpg",
    "wds:PATH": "tars in the clip-benchmark layout: PATH/{train,test}/0.tar.., nshards.txt, classnames.txt",
    "hf:NAME": "a Hugging Face data set by name or saved on disk; needs layercache[hf]",
    "csv:FILE": "columns path, label (several joined by ';') and, if you like, split",
}
"""Sources of one's own: form -> what lies there."""
