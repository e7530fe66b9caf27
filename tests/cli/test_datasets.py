import subprocess
import sys

import pytest
from PIL import Image

from layercache_cli.main import main


def run(capsys, *words, code=0):
    """Return what `layercache datasets ...` prints; it must exit with `code`."""
    with pytest.raises(SystemExit) as stopped:
        main(["datasets", *map(str, words)])
    out, err = capsys.readouterr()
    assert (stopped.value.code or 0) == code, err
    return out if code == 0 else err


def test_datasets_lists_sizes_labels_and_sources(capsys):
    out = run(capsys)
    rows = {
        line.split()[0]: line.split()
        for line in out.splitlines()
        if line and not line.startswith(" ")
    }
    assert rows["name"][:5] == ["name", "classes", "train", "test", "labels"]
    assert rows["flowers"] == ["flowers", "102", "1020", "6149", "one", "download"]
    assert rows["voc2007_multilabel"][4] == "several"
    assert rows["digits"][5] == "bundled"
    assert "paper trained on 45000" in out
    assert "folder:PATH" in out


def test_datasets_of_a_folder_shows_splits_and_classes(capsys, tmp_path):
    for name in (
        "train/ant/1.png",
        "train/bee/2.png",
        "test/ant/3.png",
        "test/bee/4.png",
        "test/bee/5.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "train/ant/notes.txt").write_text("x")
    out = run(capsys, f"folder:{tmp_path}")
    assert f"{tmp_path.name}: 2 classes; train 2, test 3" in out
    assert "left out: 1 (not an image by its name: .txt)" in out
    assert "classes: ant, bee" in out


def test_datasets_of_many_classes_abbreviates_them(capsys, tmp_path):
    (tmp_path / "t.csv").write_text(
        "path,labels,split\n" + "".join(f"{i}.png,c{i:02d},train\n" for i in range(30))
    )
    out = run(capsys, f"csv:{tmp_path / 't.csv'}")
    assert "t: 30 classes, several per image; train 30" in out
    assert out.rstrip().endswith("c19 and 10 more")


def test_datasets_errors_are_one_line(capsys, tmp_path):
    assert run(capsys, "flower", code=1).startswith(
        "error: unknown dataset 'flower': did you mean flowers"
    )
    assert (
        run(capsys, "--download", code=1)
        == "error: --download needs the name of a dataset: layercache datasets NAME --download\n"
    )
    missing = run(capsys, "flowers", "--data-root", tmp_path, code=1)
    assert f"a complete copy below {tmp_path}" in missing
    assert f"layercache datasets flowers --download --data-root {tmp_path}" in missing
    assert "by hand" in run(capsys, "cars", "--download", "--data-root", tmp_path, code=1)


def test_datasets_list_does_not_import_torch():
    program = (
        "import sys; from layercache_cli.datasets import datasets; datasets('', None, "
        "False); assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
