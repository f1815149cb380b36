"""OHIF beside Orthanc's DICOMweb in a headless Chromium: what a radiologist's viewer shows of our documents.

with Orthanc(folder, Plugins=[str(DICOMWEB)]) as orthanc, serve(DIST, orthanc) as root, browse() as browser:
    screen = Screen.open(browser, root, study_instance_uid)
    screen.show("SR")

OHIF is the built ``dist`` of the npm package ``@ohif/app``. It is served with a configuration of its own, and what it
asks of ``/dicom-web`` is passed on to Orthanc, so that the browser sees one origin and nothing but this machine.
``python -m conformance.ohif OUT`` makes screenshots of a shipped sample: overlay, report, panel, and film and overlay
side by side.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydicom import Dataset, dcmwrite
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from conformance.examples import compose_case, read_sample
from conformance.orthanc import Orthanc
from inference.engine import Engine
from inference.finding import Box, Finding
from reports.document import encoded
from reports.identity import Kind

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Where Debian's orthanc-dicomweb puts the plug-in."""
DIST = Path(".ci", "npm", "ohif", "package", "dist")
"""OHIF, where .ci/run unpacks it, seen from the checkout."""
OLDER = Path(".ci", "npm", "ohif-older", "package", "dist")
"""The same of OHIF 3.11, which tracks rectangles of its own name only."""
WAIT_S = 150.0
"""A software renderer on two busy cores takes its time."""
BRIGHT, COLOURED = 0.01, 0.005
"""Shares of a viewport from which on something is drawn, and drawn in colours."""

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1920,1080",
    # OHIF draws annotations of films without a frame of reference with WebGL only, here in software.
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
# No guided tour over what is looked at, and no controls of a film over an overlay (OT), which is not one.
_CONFIG = b"""window.config = {
  routerBasename: '/', extensions: [], modes: [], showStudyList: true,
  customizationService: [{ 'ohif.tours': { $set: [] }, autoCineModalities: { $set: ['US'] } }],
  showWarningMessageForCrossOrigin: false, investigationalUseDialog: { option: 'never' }, maxNumberOfWebWorkers: 1,
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc', qidoRoot: '/dicom-web', wadoRoot: '/dicom-web',
      qidoSupportsIncludeField: false, imageRendering: 'wadors', thumbnailRendering: 'wadors',
      enableStudyLazyLoad: true, supportsFuzzyMatching: false, supportsWildcard: true
    }
  }]
};
"""


class _Handler(BaseHTTPRequestHandler):
    """Serves OHIF's files; an address that is no file is a page of OHIF's own routing."""

    protocol_version = "HTTP/1.1"
    PASSED_ON: ClassVar[str] = "/dicom-web/"

    def __init__(self, dist: Path, orthanc: Orthanc, *arguments: Any) -> None:
        self.dist, self.orthanc = dist, orthanc
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer from the folder, or with what Orthanc answers."""
        path = self.path.partition("?")[0]
        if path.startswith(self.PASSED_ON):
            self._answer(*self._ask_orthanc())
        elif path == "/app-config.js":
            self._answer(HTTPStatus.OK, "text/javascript", _CONFIG)
        else:
            file = (self.dist / path.lstrip("/")).resolve()
            if not (file.is_relative_to(self.dist.resolve()) and file.is_file()):
                file = self.dist / "index.html"
            self._answer(
                HTTPStatus.OK, mimetypes.guess_type(file.name)[0] or "application/octet-stream", file.read_bytes()
            )

    def _ask_orthanc(self) -> tuple[int, str, bytes]:
        connection = HTTPConnection("127.0.0.1", self.orthanc.http_port, timeout=WAIT_S)
        try:
            connection.request("GET", self.path, headers={"Accept": self.headers.get("Accept", "*/*")})
            response = connection.getresponse()
            return response.status, response.headers.get("Content-Type", ""), response.read()
        finally:
            connection.close()

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet: the browser asks hundreds of times."""


@contextmanager
def serve(dist: Path, orthanc: Orthanc) -> Iterator[str]:
    """Serve OHIF on a free port of the loopback interface; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, dist, orthanc))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def browse() -> Iterator[WebDriver]:
    """Run Debian's Chromium without a screen, with a profile of its own.

    Raises
    ------
    FileNotFoundError
        Chromium or its driver is not installed.
    """
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    for name, path in programs.items():
        if path is None:
            raise FileNotFoundError(f"{name} is not installed.")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(str(programs["chromedriver"]), log_output=os.devnull)
        browser = webdriver.Chrome(options=options, service=service)
        try:
            yield browser
        finally:
            browser.quit()


@dataclass(frozen=True, slots=True)
class Screen:
    """A study that is open in OHIF."""

    browser: WebDriver

    @staticmethod
    def open(browser: WebDriver, root: str, study_instance_uid: str) -> Screen:
        """Open a study with the panel of measurements, and wait until its first image is drawn."""
        browser.get(f"{root}/viewer?StudyInstanceUIDs={study_instance_uid}")
        screen = Screen(browser)
        screen._click("//*[@data-cy='trackedMeasurements-btn']")
        screen.until_drawn()
        return screen

    def until_offered(self, count: int) -> list[str]:
        """Wait until so many series are offered; returns modality and description of each, as OHIF writes them."""
        return self._until_listed("series", _OFFERED, count)

    def show(self, modality: str) -> None:
        """Show the series of a modality, as a double click on it does."""
        self._until(f"series of modality {modality}", lambda _: self._double_click(modality))

    def until_drawn(self) -> None:
        """Wait until the viewport shows something that is not black."""
        self._until("image", lambda browser: browser.execute_script(_SHARES)[0] > BRIGHT)

    def until_coloured(self) -> None:
        """Wait until a viewport shows colours, which our overlay has and no film."""
        self._until("colours", lambda browser: browser.execute_script(_SHARES)[1] > COLOURED)

    def until_labelled(self, text: str) -> list[str]:
        """Wait until a label drawn over the film has this text; returns all labels."""
        self._until(f"label {text!r}", lambda _: any(text in label for label in self.labels()))
        return self.labels()

    def labels(self) -> list[str]:
        """Return the labels that are drawn over the film."""
        script = "return [...document.querySelectorAll('svg.svg-layer text')].map(t => t.textContent)"
        return [str(label) for label in self.browser.execute_script(script)]

    def until_outlined(self, count: int) -> list[Box]:
        """Wait until so many closed outlines are drawn over the film; returns them in pixels of the viewport."""
        self._until(f"{count} outlines", lambda browser: len(browser.execute_script(_OUTLINES)) == count)
        return [Box(*map(float, corners)) for corners in self.browser.execute_script(_OUTLINES)]

    def track(self, count: int) -> list[str]:
        """Agree to OHIF's offer to track the report's measurements; returns the rows of its panel, so many."""
        self._click("//*[@data-cy='yes-hydrate-btn']")
        return self._until_listed("measurements", _ROWS, count)

    def hide_regions(self) -> None:
        """Hide what is tracked but for the first, the hand: OHIF covers the film with the grey values of all others."""
        count = len(self.browser.find_elements(By.CSS_SELECTOR, _HIDE))
        for place in range(1, count):
            button = self.browser.find_elements(By.CSS_SELECTOR, _HIDE)[place]
            ActionChains(self.browser).scroll_to_element(button).move_to_element(button).click().perform()
        self._until("hand alone", lambda _: len(self.labels()) == 1)
        first = self.browser.find_element(By.CSS_SELECTOR, _HIDE)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", first)

    def show_beside(self, modality: str) -> None:
        """Show the series of a modality in a second viewport, right of the first."""
        self._click("//*[@data-cy='layout-button']")
        two = "[data-cy='Layout-1-0']"
        self._until("layouts", lambda browser: browser.find_elements(By.CSS_SELECTOR, two))
        ActionChains(self.browser).move_to_element(self.browser.find_element(By.CSS_SELECTOR, two)).click().perform()
        panes = "[data-cy='viewport-pane']"
        self._until("second viewport", lambda browser: len(browser.find_elements(By.CSS_SELECTOR, panes)) == 2)
        ActionChains(self.browser).click(self.browser.find_elements(By.CSS_SELECTOR, panes)[1]).perform()
        self.show(modality)

    def save(self, path: Path) -> None:
        """Keep a picture of it, in the format of the file's suffix."""
        with Image.open(BytesIO(self.browser.get_screenshot_as_png())) as picture:
            picture.convert("RGB").save(path, quality=85)

    def _click(self, xpath: str) -> None:
        self._until(xpath, lambda browser: browser.find_elements(By.XPATH, xpath))
        self.browser.execute_script("arguments[0].click()", self.browser.find_element(By.XPATH, xpath))

    def _double_click(self, modality: str) -> bool:
        for one in self.browser.find_elements(By.CSS_SELECTOR, _OFFERED):
            if one.text.split()[:1] == [modality]:
                ActionChains(self.browser).double_click(one).perform()
                return True
        return False

    def _until_listed(self, what: str, selector: str, count: int) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(one => one.innerText)"
        self._until(f"{count} {what}", lambda browser: len(browser.execute_script(script, selector)) == count)
        return [" ".join(str(text).split()) for text in self.browser.execute_script(script, selector)]

    def _until(self, what: str, holds: Callable[[WebDriver], object]) -> None:
        """Wait for a condition; an element that OHIF has just drawn anew is looked for again."""
        wait = WebDriverWait(self.browser, WAIT_S, ignored_exceptions=[StaleElementReferenceException])
        wait.until(holds, f"OHIF shows no {what}.")


# As OHIF 3.13 calls them, and 3.11, whose name 3.13 gives to a part of each.
_ROWS = "[data-cy^='measurement-table-row'], [data-cy='data-row']:not([data-cy^='measurement-table-row'] *)"
_HIDE = "[data-cy='data-row-visibility-toggle']"
_OFFERED = "[data-cy^='study-browser-thumbnail']"
_SHARES = """
const shares = [0, 0];
for (const canvas of document.querySelectorAll('[data-cy="viewport-pane"] canvas')) {
  if (!canvas.width) continue;
  const copy = document.createElement('canvas');
  copy.width = 200; copy.height = 200;
  const pen = copy.getContext('2d');
  pen.drawImage(canvas, 0, 0, 200, 200);
  const drawn = pen.getImageData(0, 0, 200, 200).data;
  let bright = 0, coloured = 0;
  for (let i = 0; i < drawn.length; i += 4) {
    const pixel = [drawn[i], drawn[i + 1], drawn[i + 2]], most = Math.max(...pixel);
    if (most > 30) bright += 1;
    if (most - Math.min(...pixel) > 60) coloured += 1;
  }
  shares[0] = Math.max(shares[0], bright / 40000);
  shares[1] = Math.max(shares[1], coloured / 40000);
}
return shares;
"""
_OUTLINES = """
return [...document.querySelectorAll('svg.svg-layer polyline')].map(outline => {
  const box = outline.getBBox();
  return [box.x, box.y, box.x + box.width, box.y + box.height];
});
"""


def put_study(orthanc: Orthanc, film: Dataset, finding: Finding, report: Kind = "sr") -> None:
    """Put a film into an archive, and the report and the overlay that belong to it."""
    content = BytesIO()
    dcmwrite(content, film)
    orthanc.put(content.getvalue())
    for _, document in compose_case(film, finding, (report, "sc")):
        orthanc.put(encoded(document))


def main(argv: list[str] | None = None) -> int:
    """Make screenshots of a sample's overlay and report; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m conformance.ohif", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder to write to, made if it is not there")
    parser.add_argument("--dist", type=Path, default=DIST, help="OHIF's built files (default: where .ci/run has them)")
    parser.add_argument("--sample", default="boy-12.dcm", help="the film (default boy-12.dcm)")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    film = read_sample(arguments.sample)
    with (
        tempfile.TemporaryDirectory() as folder,
        Orthanc(Path(folder), Plugins=[str(DICOMWEB)]) as orthanc,
        serve(arguments.dist, orthanc) as root,
        browse() as browser,
    ):
        finding = Engine.load().interpret(film)
        put_study(orthanc, film, finding)
        screen = Screen.open(browser, root, film.StudyInstanceUID)
        screen.show("OT")
        screen.until_coloured()
        screen.save(arguments.out / "ohif-overlay.png")
        screen.show("SR")
        screen.until_labelled("XR Bone age")
        screen.save(arguments.out / "ohif-report.png")
        screen.track(1 + len(finding.rois))
        screen.until_labelled("Area")
        screen.save(arguments.out / "ohif-panel.png")
        screen.hide_regions()
        screen.show_beside("OT")
        screen.until_coloured()
        screen.save(arguments.out / "ohif.jpg")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
