"""The page in a real browser: headless Chromium, from a file, in light and dark, wide and narrow."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layercache.reporting import report
from tests.reporting import lab

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
    ),
]
DARK, LIGHT = 0, 1


def browse(page: Path, *options: str, profile: Path) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    quiet = [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
    ]
    # no name resolves: a page that needs the network fails here
    quiet.append("--host-resolver-rules=MAP * ~NOTFOUND")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        *quiet,
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        *options,
    ]
    return subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )


def complaints(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("caches")
    lab.furnish(lab.make_cache(root, dataset="flowers", model="clip_b16"))
    blue = Image.new("RGB", (60, 60), (0, 0, 220))
    return report(
        tmp_path_factory.mktemp("report"),
        root=root,
        per_head=True,
        thumbnails=lambda dataset, i: blue,
    )


def shot(page: Path, tmp_path: Path, *, width: int, height: int, scheme: int) -> np.ndarray:
    picture = tmp_path / "shot.png"
    size = [
        f"--window-size={width},{height}",
        "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={scheme}",
    ]
    done = browse(page, f"--screenshot={picture}", *size, profile=tmp_path / "profile")
    assert complaints(done.stderr) == []
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [1200, 500])
def test_light_and_dark_are_legible(page, tmp_path, width):
    for scheme, ground in ((LIGHT, (255, 255, 255)), (DARK, (20, 23, 27))):
        pixels = shot(page.page, tmp_path, width=width, height=1400, scheme=scheme)
        flat = pixels.reshape(-1, 3)
        assert (flat == ground).all(axis=1).mean() > 0.5
        contrast = np.abs(flat - ground).sum(axis=1)
        # words and figures stand out from either ground
        assert (contrast > 400).mean() > 0.01


def test_dom_has_every_figure_and_picture(page, tmp_path):
    done = browse(page.page, "--dump-dom", profile=tmp_path / "profile")
    assert complaints(done.stderr) == []
    assert done.stdout.count("<svg") == len(page.figures) // 2
    assert done.stdout.count("<img") == 12


def test_a_phone_never_scrolls_sideways_but_in_a_figure(page, tmp_path):
    """A narrow frame around a copy of the page that measures itself."""
    text = page.page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    measure = (
        "<script>const d=document.documentElement;document.title='width '+d.scrollWidth+' of '+d.clientWidth;"
        "parent.postMessage(document.title+' figures '+[...document.querySelectorAll('figure svg')].filter("
        "s=>s.getBoundingClientRect().width<200||s.getBoundingClientRect().height<80).length,'*')</script>"
    )
    (tmp_path / "copy.html").write_text(
        text.replace(policy.group(), "").replace("</body>", f"{measure}</body>")
    )
    listen = "<script>onmessage=e=>document.body.append('measured: '+e.data)</script>"
    frame = f"<body>{listen}<iframe src=copy.html width=390 height=800 frameborder=0></iframe>"
    (tmp_path / "frame.html").write_text(frame)
    done = browse(
        tmp_path / "frame.html",
        "--dump-dom",
        "--virtual-time-budget=4000",
        "--allow-file-access-from-files",
        profile=tmp_path / "profile",
    )
    found = re.search(r"measured: width (\d+) of (\d+) figures (\d+)", done.stdout)
    assert found is not None
    needed, there, squeezed = map(int, found.groups())
    assert needed == there <= 390
    assert squeezed == 0


def test_a_complaint_would_be_noticed(tmp_path):
    """Negative control: the policy of the page stops a script and an address, and the log tells."""
    source = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"><img src="https://example.invalid/x.png"><script>1</script>'
    (tmp_path / "bad.html").write_text(source)
    assert complaints(
        browse(tmp_path / "bad.html", "--dump-dom", profile=tmp_path / "profile").stderr
    )
