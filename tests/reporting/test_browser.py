"""The page in headless Chromium, from a file, in light and dark, wide and narrow."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layercache.reporting import report
from tests.reporting import synthetic

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
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
        "--disable-backbackground-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-quic",
    ]
    # no host name resolves: a page that needs the network fails
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


def console_errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("caches")
    synthetic.save_all_probes(synthetic.make_cache(root, dataset="flowers", model="clip_b16"))
    blue = Image.new("RGB", (60, 60), (0, 0, 220))
    return report(
        tmp_path_factory.mktemp("report"),
        root=root,
        per_head=True,
        load_thumbnail=lambda dataset, i: blue,
    )


def screenshot(page: Path, tmp_path: Path, *, width: int, height: int, scheme: int) -> np.ndarray:
    image_path = tmp_path / "screenshot.png"
    size = [
        f"--window-size={width},{height}",
        "--hide-scrollbars",
        f"--blink-settings=preferredColorScheme={scheme}",
    ]
    result = browse(page, f"--screenshot={image_path}", *size, profile=tmp_path / "profile")
    assert console_errors(result.stderr) == []
    with Image.open(image_path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [1200, 500])
def test_page_in_light_and_dark_is_legible(page, tmp_path, width):
    for scheme, background in ((LIGHT, (255, 255, 255)), (DARK, (20, 23, 27))):
        pixels = screenshot(page.page, tmp_path, width=width, height=1400, scheme=scheme)
        flat = pixels.reshape(-1, 3)
        assert (flat == background).all(axis=1).mean() > 0.5
        contrast = np.abs(flat - background).sum(axis=1)
        # text and figures stand out from either background
        assert (contrast > 400).mean() > 0.01


def test_page_dom_has_all_figures_and_images(page, tmp_path):
    result = browse(page.page, "--dump-dom", profile=tmp_path / "profile")
    assert console_errors(result.stderr) == []
    assert result.stdout.count("<svg") == len(page.figures) // 2
    assert result.stdout.count("<img") == 12


def test_page_on_a_phone_scrolls_sideways_only_in_figures(page, tmp_path):
    """Measured by a script in a copy of the page in a narrow frame."""
    text = page.page.read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    measure = (
        "<script>const d=document.documentElement;document.title='width '+d.scrollWidth+' of "
        "'+d.clientWidth;"
        "parent.postMessage(document.title+' figures '+[...document.querySelectorAll('figure "
        "svg')].filter("
        "s=>s.getBoundingClientRect().width<200||s.getBoundingClientRect().height<80).length,'*')</script>"
    )
    (tmp_path / "copy.html").write_text(
        text.replace(policy.group(), "").replace("</body>", f"{measure}</body>")
    )
    listen = "<script>onmessage=e=>document.body.append('measured: '+e.data)</script>"
    frame = f"<body>{listen}<iframe src=copy.html width=390 height=800 frameborder=0></iframe>"
    (tmp_path / "frame.html").write_text(frame)
    result = browse(
        tmp_path / "frame.html",
        "--dump-dom",
        "--virtual-time-budget=4000",
        "--allow-file-access-from-files",
        profile=tmp_path / "profile",
    )
    measured = re.search(r"measured: width (\d+) of (\d+) figures (\d+)", result.stdout)
    assert measured is not None
    scroll_width, client_width, n_squeezed = map(int, measured.groups())
    assert scroll_width == client_width <= 390
    assert n_squeezed == 0


def test_browser_with_a_blocked_script_logs_an_error(tmp_path):
    """Negative control: the content security policy blocks a script and an address."""
    source = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"><img src="https://example.invalid/x.png"><script>1</script>'
    (tmp_path / "bad.html").write_text(source)
    assert console_errors(
        browse(tmp_path / "bad.html", "--dump-dom", profile=tmp_path / "profile").stderr
    )
