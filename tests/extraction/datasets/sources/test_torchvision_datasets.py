"""Image files in torchvision's layouts, compared with torchvision's own classes."""

import csv
import os

import numpy as np
import pytest
import scipy.io
import torch
import torchvision

from layercache.errors import DataError, DataNotFoundError
from layercache.extraction.datasets import dataset_identity, open_dataset
from layercache.extraction.pipeline.decode import open_image


def check_equals_torchvision(dataset, split, reference):
    samples = dataset.split(split)
    assert len(samples.ids) == len(reference)
    for row in range(len(reference)):
        image, label = reference[row]
        np.testing.assert_array_equal(
            np.asarray(open_image(samples, row)), np.asarray(image.convert("RGB"))
        )
        assert samples.labels[row] == label


def test_flowers_equals_torchvision(tmp_path, pictures, monkeypatch):
    flowers = torchvision.datasets.Flowers102
    monkeypatch.setattr(
        flowers, "_file_dict", {k: (name, None) for k, (name, _) in flowers._file_dict.items()}
    )
    base = tmp_path / "flowers-102"
    for n in range(1, 9):
        pictures.write(base / f"jpg/image_{n:05d}.jpg", n)
    labels = np.array([5, 102, 1, 1, 5, 102, 7, 8])  # of images 1..8, from 1
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels})
    scipy.io.savemat(
        base / "setid.mat",
        {"trnid": np.array([3, 1, 2]), "valid": np.array([4, 5]), "tstid": np.array([8, 6])},
    )
    dataset = open_dataset("flowers", root=tmp_path)
    name = dict(enumerate(flowers.classes, 1))
    assert dataset.classes == tuple(flowers.classes)
    pictures.check(
        dataset,
        "train",
        [(f"flowers-102/jpg/image_{n:05d}.jpg", name[labels[n - 1]], n) for n in (3, 1, 2)],
    )
    pictures.check(
        dataset,
        "test",
        [(f"flowers-102/jpg/image_{n:05d}.jpg", name[labels[n - 1]], n) for n in (8, 6)],
    )
    check_equals_torchvision(dataset, "train", flowers(tmp_path, "train"))


def test_pets_equals_torchvision(tmp_path, pictures):
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    listed = {
        "trainval": [("Abyssinian_100", 1), ("great_pyrenees_2", 2)],
        "test": [("great_pyrenees_7", 2), ("Abyssinian_3", 1)],
    }
    numbers = {}
    for part, rows in listed.items():
        (base / f"annotations/{part}.txt").write_text(
            "".join(f"{image} {c} 1 1\n" for image, c in rows)
        )
        for image, _ in rows:
            numbers[image] = len(numbers)
            pictures.write(base / f"images/{image}.jpg", numbers[image])
    dataset = open_dataset("pets", root=tmp_path)
    assert dataset.classes == ("Abyssinian", "Great Pyrenees")
    for split, part in (("train", "trainval"), ("test", "test")):
        expected = [
            (f"oxford-iiit-pet/images/{image}.jpg", dataset.classes[c - 1], numbers[image])
            for image, c in listed[part]
        ]
        pictures.check(dataset, split, expected)
        check_equals_torchvision(dataset, split, torchvision.datasets.OxfordIIITPet(tmp_path, part))


def test_dtd_equals_torchvision(tmp_path, pictures):
    base = tmp_path / "dtd/dtd"
    (base / "labels").mkdir(parents=True)
    listed = {
        "train1": ["braided/braided_1.jpg", "banded/banded_2.jpg"],
        "val1": ["banded/banded_3.jpg"],
        "test1": ["banded/banded_4.jpg", "braided/braided_5.jpg"],
    }
    for part, names in listed.items():
        (base / f"labels/{part}.txt").write_text("".join(f"{n}\n" for n in names))
        for name in names:
            pictures.write(base / "images" / name, int(name[-5]))
    dataset = open_dataset("dtd", root=tmp_path)
    assert dataset.classes == ("banded", "braided")
    pictures.check(
        dataset,
        "train",
        [
            ("dtd/dtd/images/braided/braided_1.jpg", "braided", 1),
            ("dtd/dtd/images/banded/banded_2.jpg", "banded", 2),
        ],
    )
    pictures.check(
        dataset,
        "test",
        [
            ("dtd/dtd/images/banded/banded_4.jpg", "banded", 4),
            ("dtd/dtd/images/braided/braided_5.jpg", "braided", 5),
        ],
    )
    check_equals_torchvision(dataset, "test", torchvision.datasets.DTD(tmp_path, "test"))
    (base / "labels/test1.txt").write_text("banded/banded_4.jpg\n")
    with pytest.raises(DataError, match=r"train has a class 'braided' that test does not have"):
        open_dataset("dtd", root=tmp_path)


def test_gtsrb_equals_torchvision(tmp_path, pictures):
    base = tmp_path / "gtsrb"
    for n, name in enumerate(
        [
            "00014/00000_00001.ppm",
            "00014/00000_00000.ppm",
            "00000/00003_00000.ppm",
            "00002/00000_00000.ppm",
        ]
    ):
        pictures.write(base / "GTSRB/Training" / name, n)
    for n in (4, 5):
        pictures.write(base / f"GTSRB/Final_Test/Images/0000{n}.ppm", n)
    with open(base / "GT-final_test.csv", "w", newline="") as f:
        rows = csv.writer(f, delimiter=";")
        rows.writerow(
            ["Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId"]
        )
        rows.writerows([["00005.ppm", 9, 7, 0, 0, 0, 0, 14], ["00004.ppm", 9, 7, 0, 0, 0, 0, 42]])
    dataset = open_dataset("gtsrb", root=tmp_path)
    assert len(dataset.classes) == 43
    train = "gtsrb/GTSRB/Training"
    pictures.check(
        dataset,
        "train",
        [
            (f"{train}/00000/00003_00000.ppm", "speed limit 20", 2),
            (f"{train}/00002/00000_00000.ppm", "speed limit 50", 3),
            (f"{train}/00014/00000_00000.ppm", "stop", 1),
            (f"{train}/00014/00000_00001.ppm", "stop", 0),
        ],
    )
    test = "gtsrb/GTSRB/Final_Test/Images"
    pictures.check(
        dataset,
        "test",
        [
            (f"{test}/00005.ppm", "stop", 5),
            (f"{test}/00004.ppm", "end of no overtaking by trucks", 4),
        ],
    )
    check_equals_torchvision(dataset, "test", torchvision.datasets.GTSRB(tmp_path, "test"))
    assert torchvision.datasets.GTSRB(tmp_path, "train")[3][1] == 2, (
        "torchvision numbers the three folders; the stop sign is class 14"
    )


def test_country211_equals_torchvision(tmp_path, pictures):
    for n, name in enumerate(
        [
            "train/ZW/b.jpg",
            "train/AD/x.jpg",
            "valid/AD/v.jpg",
            "valid/ZW/v.jpg",
            "test/AD/t.jpg",
            "test/ZW/t.jpg",
        ]
    ):
        pictures.write(tmp_path / "country211" / name, n)
    dataset = open_dataset("country211", root=tmp_path)
    assert dataset.classes == ("AD", "ZW")
    pictures.check(
        dataset,
        "train",
        [("country211/train/AD/x.jpg", "AD", 1), ("country211/train/ZW/b.jpg", "ZW", 0)],
    )
    pictures.check(
        dataset,
        "test",
        [("country211/test/AD/t.jpg", "AD", 4), ("country211/test/ZW/t.jpg", "ZW", 5)],
    )
    check_equals_torchvision(dataset, "train", torchvision.datasets.Country211(tmp_path, "train"))


def test_fgvc_aircraft_equals_torchvision(tmp_path, pictures):
    data = tmp_path / "fgvc-aircraft-2013b/data"
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("A300B4\nBoeing 707-320\n")
    listed = {
        "train": [("0000001", "Boeing 707-320")],
        "val": [("0000002", "A300B4")],
        "test": [("0000004", "A300B4"), ("0000003", "Boeing 707-320")],
    }
    for part, rows in listed.items():
        (data / f"images_variant_{part}.txt").write_text("".join(f"{i} {v}\n" for i, v in rows))
        for i, _ in rows:
            pictures.write(data / f"images/{i}.jpg", int(i))
    dataset = open_dataset("fgvc_aircraft", root=tmp_path)
    assert dataset.classes == ("A300B4", "Boeing 707-320")
    for split in ("train", "test"):
        pictures.check(
            dataset,
            split,
            [(f"fgvc-aircraft-2013b/data/images/{i}.jpg", v, int(i)) for i, v in listed[split]],
        )
        check_equals_torchvision(dataset, split, torchvision.datasets.FGVCAircraft(tmp_path, split))


def test_cars_equals_torchvision(tmp_path, pictures):
    base = tmp_path / "stanford_cars"
    (base / "devkit").mkdir(parents=True)

    def annotations(rows):
        kinds = [("fname", "O"), ("class", "O")]
        return {
            "annotations": np.array([(name, c) for name, c in rows], dtype=kinds).reshape(1, -1)
        }

    scipy.io.savemat(
        base / "devkit/cars_meta.mat",
        {"class_names": np.array(["AM General Hummer", "Acura RL"], object).reshape(1, -1)},
    )
    scipy.io.savemat(
        base / "devkit/cars_train_annos.mat", annotations([("00002.jpg", 2), ("00001.jpg", 1)])
    )
    scipy.io.savemat(
        base / "cars_test_annos_withlabels.mat", annotations([("00001.jpg", 1), ("00009.jpg", 2)])
    )
    for folder, n in (("train", 1), ("train", 2), ("test", 1), ("test", 9)):
        pictures.write(base / f"cars_{folder}/{n:05d}.jpg", n + (20 if folder == "test" else 0))
    dataset = open_dataset("cars", root=tmp_path)
    assert dataset.classes == ("AM General Hummer", "Acura RL")
    pictures.check(
        dataset,
        "train",
        [
            ("stanford_cars/cars_train/00002.jpg", "Acura RL", 2),
            ("stanford_cars/cars_train/00001.jpg", "AM General Hummer", 1),
        ],
    )
    pictures.check(
        dataset,
        "test",
        [
            ("stanford_cars/cars_test/00001.jpg", "AM General Hummer", 21),
            ("stanford_cars/cars_test/00009.jpg", "Acura RL", 29),
        ],
    )
    check_equals_torchvision(dataset, "test", torchvision.datasets.StanfordCars(tmp_path, "test"))


@pytest.mark.parametrize("below", ["", "imagenet"])
def test_imagenet_equals_torchvision(tmp_path, pictures, below):
    root = tmp_path / below
    for n, name in enumerate(
        [
            "train/n02012849/n02012849_2.JPEG",
            "train/n02012849/n02012849_10.JPEG",
            "train/n03126707/a.JPEG",
            "val/n03126707/v.JPEG",
            "val/n02012849/v.JPEG",
        ]
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pictures.image(n).save(root / name, quality=100, subsampling=0)
    torch.save(
        (
            {"n03126707": ("crane",), "n02012849": ("crane",), "n00000001": ("unused",)},
            ["n03126707", "n02012849"],
        ),
        root / "meta.bin",
    )
    dataset = open_dataset("imagenet", root=tmp_path)
    bird, machine = "n02012849 crane", "n03126707 crane"
    assert dataset.classes == (bird, machine)
    pictures.check(
        dataset,
        "train",
        [
            ("train/n02012849/n02012849_10.JPEG", bird, 1),
            ("train/n02012849/n02012849_2.JPEG", bird, 0),
            ("train/n03126707/a.JPEG", machine, 2),
        ],
    )
    pictures.check(
        dataset, "test", [("val/n02012849/v.JPEG", bird, 4), ("val/n03126707/v.JPEG", machine, 3)]
    )
    check_equals_torchvision(dataset, "train", torchvision.datasets.ImageNet(root, "train"))


def test_caltech101_draws_30_training_images_of_every_class(tmp_path, pictures):
    base = tmp_path / "caltech101/101_ObjectCategories"
    counts = {"BACKGROUND_Google": 31, "Faces": 40, "ant": 33}
    number = {}
    for name, count in counts.items():
        for i in range(1, count + 1):
            number[f"caltech101/101_ObjectCategories/{name}/image_{i:04d}.jpg"] = len(number)
            pictures.write(base / name / f"image_{i:04d}.jpg", len(number) - 1)
    (base / "BACKGROUND_Google/tmp").write_text("as in the real archive")
    dataset = open_dataset("caltech101", root=tmp_path)
    assert dataset.classes == ("BACKGROUND_Google", "Faces", "ant")
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(train.labels).tolist() == [30, 30, 30]
    assert np.bincount(test.labels).tolist() == [1, 10, 3]
    assert sorted(train.ids + test.ids) == sorted(number)
    pictures.check(dataset, "test", [(i, i.split("/")[2], number[i]) for i in test.ids])
    assert dataset_identity(open_dataset("caltech101", root=tmp_path)) == dataset_identity(dataset)
    reference = torchvision.datasets.Caltech101(tmp_path)
    assert reference.categories == ["Faces", "ant"], (
        "torchvision drops the background; the paper has 102 classes"
    )
    assert len(reference) == 73
    os.remove(base / "ant/image_0033.jpg")
    for i in (32, 31):
        os.remove(base / f"ant/image_{i:04d}.jpg")
    with pytest.raises(
        DataError, match=r"expected more than 30 images of every class, .* 'ant' has fewer"
    ):
        open_dataset("caltech101", root=tmp_path)


def test_caltech101_missing_makes_no_folder(tmp_path):
    with pytest.raises(DataNotFoundError, match="no folder caltech101/101_ObjectCategories"):
        open_dataset("caltech101", root=tmp_path, offline=True)
    assert os.listdir(tmp_path) == []


def test_eurosat_draws_60_and_20_percent_of_every_class(tmp_path, pictures):
    base = tmp_path / "eurosat/2750"
    number = {}
    for name, count in (("Forest", 20), ("River", 10)):
        for i in range(1, count + 1):
            number[f"eurosat/2750/{name}/{name}_{i}.jpg"] = len(number)
            pictures.write(base / name / f"{name}_{i}.jpg", len(number) - 1)
    dataset = open_dataset("eurosat", root=tmp_path)
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(train.labels).tolist() == [12, 6]
    assert np.bincount(test.labels).tolist() == [4, 2]
    assert not set(train.ids) & set(test.ids)
    for split in ("train", "test"):
        pictures.check(
            dataset, split, [(i, i.split("/")[2], number[i]) for i in dataset.split(split).ids]
        )
    reference = dict(
        zip(
            (
                str(p)[len(str(tmp_path)) + 1 :]
                for p, _ in torchvision.datasets.EuroSAT(tmp_path).samples
            ),
            range(30),
            strict=True,
        )
    )
    assert sorted(reference) == sorted(number)
