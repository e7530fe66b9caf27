import numpy as np
import pytest
import torchvision
from PIL import Image

from layercache.errors import DataError
from layercache.extraction.datasets import dataset_identity, limit_samples, open_dataset
from layercache.extraction.pipeline.decode import open_image

OBJECTS = {
    "000005": [
        ("chair", (263, 211, 324, 339), 0),
        ("person", (5, 10, 40, 60), 0),
        ("chair", (165, 264, 253, 372), 1),
    ],
    "000007": [("car", (141, 50, 300, 330), 0)],
    "000009": [("horse", (69, 172, 270, 330), 0), ("person", (150, 141, 229, 284), 0)],
    "000001": [("dog", (48, 240, 195, 371), 1)],
}
PARTS = {
    "train": ["000007", "000005"],
    "val": ["000009"],
    "trainval": ["000005", "000007", "000009"],
    "test": ["000001"],
}


def annotation(objects):
    body = "".join(
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, box, difficult in objects
    )
    size = "<size><width>400</width><height>400</height></size>"
    return f"<annotation><folder>VOC2007</folder>{size}{body}</annotation>"


@pytest.fixture
def root(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (base / folder).mkdir(parents=True)
    for part, names in PARTS.items():
        (base / f"ImageSets/Main/{part}.txt").write_text("".join(f"{n}\n" for n in names))
    rng = np.random.default_rng(0)
    for name, objects in OBJECTS.items():
        smooth = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((400, 400))
        smooth.save(base / f"JPEGImages/{name}.jpg")
        (base / f"Annotations/{name}.xml").write_text(annotation(objects))
    return tmp_path


def pixels(root, name):
    with Image.open(root / f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg") as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", ["voc2007", "voc2007_multilabel"])
def test_voc2007_whole_images_equal_torchvision(root, name):
    dataset = open_dataset(name, root=root)
    assert (dataset.classes[0], dataset.classes[19], len(dataset.classes)) == (
        "aeroplane",
        "tvmonitor",
        20,
    )
    assert dataset.multi_label == (name == "voc2007_multilabel")
    for split, part in (("train", "trainval"), ("test", "test")):
        samples = dataset.split(split)
        reference = torchvision.datasets.VOCDetection(root, year="2007", image_set=part)
        assert samples.ids == [f"VOCdevkit/VOC2007/JPEGImages/{n}.jpg" for n in PARTS[part]]
        for row, image in enumerate(PARTS[part]):
            np.testing.assert_array_equal(np.asarray(open_image(samples, row)), pixels(root, image))
            objects = reference[row][1]["annotation"]["object"]
            assert [o["name"] for o in objects] == [o[0] for o in OBJECTS[image]]
            if dataset.multi_label:
                assert {dataset.classes[c] for c in np.flatnonzero(samples.labels[row])} == {
                    o["name"] for o in objects
                }
            else:
                assert dataset.classes[samples.labels[row]] == objects[0]["name"]


def test_voc2007_crops_are_cut_out_of_their_images(root):
    dataset = open_dataset("voc2007_crops", root=root)
    for split in ("train", "test"):
        samples = dataset.split(split)
        expected = [
            (image, place, *o) for image in PARTS[split] for place, o in enumerate(OBJECTS[image])
        ]
        assert samples.ids == [
            f"VOCdevkit/VOC2007/JPEGImages/{image}.jpg#{place}" for image, place, *_ in expected
        ]
        for row, (image, _, name, (left, top, right, bottom), _) in enumerate(expected):
            assert dataset.classes[samples.labels[row]] == name
            np.testing.assert_array_equal(
                np.asarray(open_image(samples, row)), pixels(root, image)[top:bottom, left:right]
            )
            np.testing.assert_array_equal(
                np.asarray(open_image(samples, row, draft=(10, 10))),
                pixels(root, image)[top:bottom, left:right],
            )


def test_voc2007_crops_digest_depends_on_the_boxes(root):
    before = dataset_identity(open_dataset("voc2007_crops", root=root))
    assert len(limit_samples(open_dataset("voc2007_crops", root=root), 2).split("train").ids) == 2
    path = root / "VOCdevkit/VOC2007/Annotations/000007.xml"
    path.write_text(path.read_text().replace("<xmax>300<", "<xmax>301<"))
    after = dataset_identity(open_dataset("voc2007_crops", root=root))
    assert after.splits["train"].content != before.splits["train"].content
    assert after.splits["test"] == before.splits["test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", r"000007\.xml cannot be read"),
        (annotation([]), r"000007\.xml: expected at least one object, got none"),
        (
            annotation([("unicorn", (1, 1, 2, 2), 0)]),
            r"000007\.xml: expected objects of the 20 classes with a box, got 'unicorn'",
        ),
        (
            annotation([("car", ("x", 1, 2, 2), 0)]),
            r"000007\.xml: expected a box of four numbers for the object 'car', got \['x'",
        ),
    ],
)
def test_voc2007_with_an_invalid_annotation_raises(root, text, message):
    (root / "VOCdevkit/VOC2007/Annotations/000007.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset("voc2007", root=root)
