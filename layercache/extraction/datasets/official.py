"""Official archives of the named datasets: addresses, checksums and licences. Plain data.

Addresses and MD5 sums are those of torchvision, except PCam's, which are those of its authors'
Zenodo record. A test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OfficialFile:
    """One file to download."""

    url: str
    folder: str
    """Folder below the data root, in torchvision's layout."""
    md5: str | None
    """MD5 hex of the file; None if its publisher states none."""
    inner: tuple[str, ...] = ()
    """Archives in the archive, unpacked into `folder` as well."""

    @property
    def name(self) -> str:
        """File name."""
        return self.url.partition("?")[0].rsplit("/", 1)[-1]

    @property
    def is_archive(self) -> bool:
        """True if it is unpacked into `folder`; other files stay as they are."""
        return not self.name.endswith(".mat")


@dataclass(frozen=True)
class OfficialSource:
    """Origin of a dataset."""

    publisher: str
    license: str
    """Licence as its publisher states it, or the page that has the terms."""
    files: tuple[OfficialFile, ...]


def _files(base: str, folder: str, md5: dict[str, str | None]) -> tuple[OfficialFile, ...]:
    """Return the files below an address, from their names and MD5 sums."""
    return tuple(OfficialFile(f"{base}/{name}", folder, digest) for name, digest in md5.items())


_VGG = "https://www.robots.ox.ac.uk/~vgg/data"
_OXFORD = "the Visual Geometry Group, University of Oxford"
_CIFAR = "https://www.cs.toronto.edu/~kriz"
_TORONTO = "the University of Toronto", f"see {_CIFAR}/cifar.html"
_VOC2007 = OfficialSource(
    "the PASCAL VOC project, University of Oxford",
    "Flickr's terms of use, see http://host.robots.ox.ac.uk/pascal/VOC/voc2007",
    _files(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007",
        "",
        {
            "VOCtrainval_06-Nov-2007.tar": "c52e279531787c972589f7e41ab4ae64",
            "VOCtest_06-Nov-2007.tar": "b6e924de25625d8de591ea690078ad9f",
        },
    ),
)

OFFICIAL: dict[str, OfficialSource] = {
    "flowers": OfficialSource(
        _OXFORD,
        f"see {_VGG}/flowers/102",
        _files(
            f"{_VGG}/flowers/102",
            "flowers-102",
            {
                "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
                "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
                "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
            },
        ),
    ),
    "pets": OfficialSource(
        _OXFORD,
        "CC BY-SA 4.0",
        _files(
            f"{_VGG}/pets/data",
            "oxford-iiit-pet",
            {
                "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
            },
        ),
    ),
    "dtd": OfficialSource(
        _OXFORD,
        f"for research purposes, see {_VGG}/dtd",
        _files(
            f"{_VGG}/dtd/download", "dtd", {"dtd-r1.0.1.tar.gz": "fff73e5086ae6bdbea199a49dfb8a4c1"}
        ),
    ),
    "gtsrb": OfficialSource(
        "the Institut für Neuroinformatik, Ruhr-Universität Bochum",
        "see https://benchmark.ini.rub.de",
        _files(
            "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370",
            "gtsrb",
            {
                "GTSRB-Training_fixed.zip": "513f3c79a4c5141765e10e952eaa2478",
                "GTSRB_Final_Test_Images.zip": "c7e4e6327067d32654124b0fe9e82185",
                "GTSRB_Final_Test_GT.zip": "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
            },
        ),
    ),
    "country211": OfficialSource(
        "OpenAI",
        "photographs under Creative Commons licences, see https://github.com/openai/CLIP",
        _files(
            "https://openaipublic.azureedge.net/clip/data",
            "",
            {"country211.tgz": "84988d7644798601126c29e9877aab6a"},
        ),
    ),
    "fgvc_aircraft": OfficialSource(
        _OXFORD,
        "non-commercial research purposes only",
        _files(f"{_VGG}/fgvc-aircraft/archives", "", {"fgvc-aircraft-2013b.tar.gz": None}),
    ),
    "cifar10": OfficialSource(
        *_TORONTO,
        _files(_CIFAR, "", {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}),
    ),
    "cifar100": OfficialSource(
        *_TORONTO,
        _files(_CIFAR, "", {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}),
    ),
    "fashion_mnist": OfficialSource(
        "Zalando",
        "MIT",
        _files(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "FashionMNIST/raw",
            {
                "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
            },
        ),
    ),
    "svhn": OfficialSource(
        "Stanford University",
        "non-commercial use only",
        _files(
            "http://ufldl.stanford.edu/housenumbers",
            "svhn",
            {
                "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
                "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
            },
        ),
    ),
    "stl10": OfficialSource(
        "Stanford University",
        "see https://cs.stanford.edu/~acoates/stl10",
        _files(
            "http://ai.stanford.edu/~acoates/stl10",
            "",
            {"stl10_binary.tar.gz": "91f7769df0f17e558f3565bffb0c7dfb"},
        ),
    ),
    "pcam": OfficialSource(
        "the PatchCamelyon authors on Zenodo",
        "CC0",
        _files(
            "https://zenodo.org/records/2546921/files",
            "pcam",
            {
                f"camelyonpatch_level_2_split_{part}.h5.gz?download=1": md5
                for part, md5 in (
                    ("train_x", "1571f514728f59376b705fc836ff4b63"),
                    ("train_y", "35c2d7259d906cfc8143347bb8e05be7"),
                    ("test_x", "d8c2d60d490dbd479f8199bdfa0cf6ec"),
                    ("test_y", "60a7035772fbdb7f34eb86d4420cf66a"),
                )
            },
        ),
    ),
    "caltech101": OfficialSource(
        "the California Institute of Technology",
        "CC BY 4.0",
        (
            OfficialFile(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "caltech101",
                "3138e1922a9193bfa496528edbbc45d0",
                inner=("caltech-101/101_ObjectCategories.tar.gz",),
            ),
        ),
    ),
    "eurosat": OfficialSource(
        "its copy by TorchGeo on the Hugging Face Hub",
        "MIT",
        _files(
            "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd",
            "eurosat",
            {"EuroSAT.zip": "c8fa014336c82ac7804f0398fcb19387"},
        ),
    ),
    "voc2007": _VOC2007,
    "voc2007_multilabel": _VOC2007,
    "voc2007_crops": _VOC2007,
}
"""Dataset -> its official source, for the named datasets that can be downloaded."""
