"""A small Study Root archive to ask: C-FIND, and C-GET and C-MOVE where it is told so; it keeps what it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    SecondaryCaptureImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_node.settings import ArchivePeer

FILMS = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation)
KEYS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality")
LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}


class QueryArchive:
    """An archive of a few objects.

    Parameters
    ----------
    objects
        What it has; more may be appended.
    gets, moves
        Whether it takes C-GET and C-MOVE.
    fails
        "find" or "get": what it answers with a failure.
    """

    def __init__(self, objects: Sequence[Dataset], *, gets: bool = True, moves: bool = False, fails: str = "") -> None:
        self.objects, self.fails = list(objects), fails
        self.stored: list[Dataset] = []
        self.retrieved: list[str] = []
        self.destination: tuple[str, int] | None = None
        self.ae = AE("ARCHIVE")
        self.ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if gets:
            self.ae.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        if moves:
            self.ae.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
        for sop_class_uid in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage, *FILMS):
            self.ae.add_supported_context(sop_class_uid, scu_role=True, scp_role=True)
        for sop_class_uid in (Comprehensive3DSRStorage, *FILMS):
            self.ae.add_requested_context(sop_class_uid)
        handlers = [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_C_STORE, self._store),
        ]
        self.server = self.ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.ae.shutdown()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.server.server_address[:2]
        return str(host), int(port)

    @property
    def peer(self) -> ArchivePeer:
        """Return it as a node's settings name it."""
        host, port = self.address
        return ArchivePeer(kind="archive", name="pacs", ae_title="ARCHIVE", host=host, port=port)

    def _matching(self, query: Dataset) -> list[Dataset]:
        wanted = {key: str(query.get(key, "")) for key in KEYS if query.get(key)}
        return [ds for ds in self.objects if all(str(ds.get(key)) == value for key, value in wanted.items())]

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        if self.fails == "find":
            yield 0xA700, None
            return
        level = LEVELS[str(query.QueryRetrieveLevel)]
        for ds in {str(ds.get(level)): ds for ds in self._matching(query)}.values():
            answer = Dataset()
            for element in query:
                setattr(answer, element.keyword, ds.get(element.keyword, ""))
            answer.QueryRetrieveLevel = query.QueryRetrieveLevel
            yield 0xFF00, answer
        yield 0x0000, None

    def _get(self, event: evt.Event) -> Iterator[object]:
        found = self._matching(event.identifier)
        yield len(found)
        if self.fails == "get":
            yield 0xA702, None
            return
        yield from self._send(found)

    def _move(self, event: evt.Event) -> Iterator[object]:
        if self.destination is None:
            yield None, None  # answered with 0xA801, move destination unknown
            return
        found = self._matching(event.identifier)
        yield self.destination
        yield len(found)
        yield from self._send(found)

    def _send(self, found: Sequence[Dataset]) -> Iterator[object]:
        for ds in found:
            self.retrieved.append(str(ds.SOPInstanceUID))
            yield 0xFF00, ds

    def _store(self, event: evt.Event) -> int:
        self.stored.append(event.dataset)
        return 0x0000
