from layercache.extraction.datasets.registry import DATASETS


def test_registry_has_the_papers_twenty_with_their_sizes():
    paper = {  # training size and classes
        "cifar10": (45000, 10),
        "cifar100": (45000, 100),
        "stl10": (5000, 10),
        "caltech101": (2753, 102),
        "voc2007_crops": (7844, 20),
        "imagenet": (1281167, 1000),
        "country211": (31650, 211),
        "pets": (2944, 37),
        "flowers": (1020, 102),
        "cars": (8144, 196),
        "fgvc_aircraft": (3334, 100),
        "gtsrb": (26640, 43),
        "svhn": (65931, 10),
        "pcam": (262144, 2),
        "eurosat": (16200, 10),
        "resisc45": (18900, 45),
        "diabetic_retinopathy": (35126, 5),
        "dtd": (1880, 47),
        "fer2013": (28709, 7),
        "dmlab": (65550, 6),
    }
    for name, (size, classes) in paper.items():
        assert DATASETS[name].num_classes == classes
        assert DATASETS[name].num_train == size or f"{size}" in DATASETS[name].note
