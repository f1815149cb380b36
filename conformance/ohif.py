"""OHIF beside Orthanc's DICOMweb in a headless Chromium: what a radiologist's viewer shows of our documents.

with Orthanc(folder, Plugins=[str(DICOMWEB)]) as orthanc, serve(DIST, orthanc) as root, browse() as browser:
    screen = Screen.open(browser, root, study_instance_uid)
    screen.show("SR")

OHIF is the built ``dist`` of the npm package ``@ohif/app``. It is served with a configuration of its own, and what it
asks of ``/dicom-web`` is passed on to Orthanc, so that the browser sees one origin and nothing but this machine.
``python -m conformance.ohif OUT`` makes the screenshots of a shipped sample.
"""

from __future__ import annotations

import argparse
import mimetypes
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from pydicom import Dataset, dcmwrite
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from conformance.examples import compose_case, read_sample
from conformance.orthanc import Orthanc
from inference.engine import Engine
from reports.document import encoded

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
"""Where Debian's orthanc-dicomweb puts the plug-in."""
DIST = Path(__file__).parents[1] / ".ci" / "npm" / "ohif" / "package" / "dist"
"""OHIF, where .ci/run unpacks it."""
WAIT_S = 150.0
"""A software renderer on two busy cores takes its time."""

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1600,1000",
    # OHIF draws annotations of films without a frame of reference with WebGL only, here in software.
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
)  # fmt: skip
_CONFIG = b"""window.config = {
  routerBasename: '/', extensions: [], modes: [], customizationService: {}, showStudyList: true,
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
        """Open a study and wait until its first image is drawn and OHIF's guided tour is sent away."""
        browser.get(f"{root}/viewer?StudyInstanceUIDs={study_instance_uid}")
        screen = Screen(browser)
        screen._click("//*[normalize-space(text())='Skip all']")
        screen._click("//*[@data-cy='trackedMeasurements-btn']")  # the panel of measurements
        screen.until_drawn()
        return screen

    def series(self) -> list[str]:
        """Return modality and description of the series offered, as OHIF writes them."""
        offered = self.browser.find_elements(By.CSS_SELECTOR, "[data-cy^='study-browser-thumbnail']")
        return [" ".join(one.text.split()) for one in offered]

    def show(self, modality: str) -> None:
        """Show the series of a modality, as a double click on it does."""
        for one in self.browser.find_elements(By.CSS_SELECTOR, "[data-cy^='study-browser-thumbnail']"):
            if one.text.split()[0] == modality:
                ActionChains(self.browser).double_click(one).perform()
                return
        raise LookupError(f"OHIF offers no series of modality {modality}.")

    def until_drawn(self) -> None:
        """Wait until the viewport shows something that is not black."""
        self._until("image", lambda browser: browser.execute_script(_BRIGHT_SHARE) > 0.01)

    def until_labelled(self, text: str) -> list[str]:
        """Wait until a label drawn over the film has this text; returns all labels."""
        self._until(f"label {text!r}", lambda _: any(text in label for label in self.labels()))
        return self.labels()

    def labels(self) -> list[str]:
        """Return the labels that are drawn over the film."""
        script = "return [...document.querySelectorAll('svg.svg-layer text')].map(t => t.textContent)"
        return [str(label) for label in self.browser.execute_script(script)]

    def outlines(self) -> int:
        """Return how many closed outlines are drawn over the film."""
        return len(self.browser.find_elements(By.CSS_SELECTOR, "svg.svg-layer polyline"))

    def track(self) -> list[str]:
        """Agree to OHIF's offer to track the report's measurements; returns the rows of its panel."""
        self._click("//*[@data-cy='yes-hydrate-btn']")
        rows = "[data-cy^='measurement-table-row']"
        self._until("measurements", lambda browser: browser.find_elements(By.CSS_SELECTOR, rows))
        return [" ".join(one.text.split()) for one in self.browser.find_elements(By.CSS_SELECTOR, rows)]

    def save(self, path: Path) -> None:
        """Keep a picture of it, as PNG."""
        path.write_bytes(self.browser.get_screenshot_as_png())

    def _click(self, xpath: str) -> None:
        self._until(xpath, lambda browser: browser.find_elements(By.XPATH, xpath))
        self.browser.execute_script("arguments[0].click()", self.browser.find_element(By.XPATH, xpath))

    def _until(self, what: str, holds: Any) -> None:
        WebDriverWait(self.browser, WAIT_S).until(holds, f"OHIF shows no {what}.")


_BRIGHT_SHARE = """
const canvas = document.querySelector('[data-cy="viewport-pane"] canvas');
if (!canvas || !canvas.width) return 0;
const copy = document.createElement('canvas');
copy.width = 100; copy.height = 100;
const pen = copy.getContext('2d');
pen.drawImage(canvas, 0, 0, 100, 100);
const grey = pen.getImageData(0, 0, 100, 100).data;
let bright = 0;
for (let i = 0; i < grey.length; i += 4) if (grey[i] + grey[i + 1] + grey[i + 2] > 90) bright += 1;
return bright / 10000;
"""


def put_study(orthanc: Orthanc, film: Dataset, engine: Engine) -> None:
    """Put a film into an archive, and the report and the overlay that belong to it."""
    content = BytesIO()
    dcmwrite(content, film)
    orthanc.put(content.getvalue())
    for _, document in compose_case(film, engine.interpret(film), ("sr", "sc")):
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
        put_study(orthanc, film, Engine.load())
        screen = Screen.open(browser, root, film.StudyInstanceUID)
        screen.show("OT")
        screen.until_drawn()
        screen.save(arguments.out / "ohif-overlay.png")
        screen.show("SR")
        screen.until_labelled("XR Bone age")
        screen.save(arguments.out / "ohif-report.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
