"""Logs: structured lines, and nothing of the patient in them.

Not covered: whether a sentence in an event's own text names somebody (events are constant strings by convention).
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.valuerep import PersonName

from dicom_node import logs
from dicom_node.errors import PeerRefused
from dicom_node.settings import LogSettings


@pytest.fixture
def lines() -> io.StringIO:
    """Configure JSON logs into a buffer; conftest.py puts everything back afterwards."""
    stream = io.StringIO()
    logs.configure(LogSettings(level="DEBUG"), stream)
    return stream


def fail() -> None:
    raise ValueError("Invalid value for VR DA: DOE^JANE")


def only(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    event: dict[str, Any] = json.loads(line)
    return event


def test_an_event_is_one_line_of_json(lines: io.StringIO) -> None:
    structlog.get_logger().info("receive.stored", sop_instance_uid="1.2.3", path=Path("spool/ab"), size_bytes=7)
    event = only(lines)
    assert event["event"] == "receive.stored"
    assert event["level"] == "info"
    assert event["time"].endswith("Z")
    assert (event["sop_instance_uid"], event["path"], event["size_bytes"]) == ("1.2.3", "spool/ab", 7)


@pytest.mark.parametrize(
    "key", ["PatientName", "patient_name", "patientID", "patient", "birth_date", "AccessionNumber", "OtherPatientIDs"]
)
def test_keys_that_name_a_patient_are_withheld(lines: io.StringIO, key: str) -> None:
    structlog.get_logger().info("x", **{key: "DOE^JANE"})
    assert "DOE" not in lines.getvalue()
    assert only(lines)["withheld"] == [key]


def test_pieces_of_data_sets_are_withheld_under_any_key(lines: io.StringIO) -> None:
    ds = Dataset()
    ds.PatientName = "DOE^JANE"
    structlog.get_logger().info(
        "x", a=ds, b=ds["PatientName"], c=PersonName("DOE^JANE"), d=b"DOE", e=[ds], f={"patient_id": "DOE"}
    )
    assert "DOE" not in lines.getvalue()
    assert only(lines)["withheld"] == ["a", "b", "c", "d", "e", "f"]


@given(name=st.text("ABCDEFGH", min_size=6), nesting=st.integers(0, 3))
def test_no_nesting_hides_a_name(name: str, nesting: int) -> None:
    value: object = {"PatientName": name}
    for _ in range(nesting):
        value = [value]
    assert name not in str(logs.withhold_patient_data(None, "info", {"event": "x", "deep": value}))


def test_messages_of_libraries_are_cut_to_their_place(lines: io.StringIO) -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("pydicom").exception("cannot decode %s", "DOE^JANE")
    event = only(lines)
    assert "DOE" not in lines.getvalue()
    assert event["library"] == "pydicom"
    assert event["place"].startswith("test_logs:")
    assert event["exception"]["kind"] == "ValueError"
    assert "test_logs.py" in event["exception"]["place"]


def test_what_libraries_chat_about_is_not_logged(lines: io.StringIO) -> None:
    logging.getLogger("pynetdicom.acse").info("x")
    logging.getLogger("dbos").debug("x")
    assert lines.getvalue() == ""


def test_warnings_are_cut_to_their_place(lines: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(LogSettings(), lines)
        warnings.warn("The value DOE^JANE is odd", UserWarning, stacklevel=1)
    assert "DOE" not in lines.getvalue()
    assert only(lines)["kind"] == "UserWarning"


def test_our_own_exceptions_keep_message_and_code_others_do_not(lines: io.StringIO) -> None:
    try:
        try:
            fail()
        except ValueError as cause:
            raise PeerRefused("pacs refused 1.2.3", 0xA900) from cause
    except PeerRefused:
        structlog.get_logger().exception("deliver.failed")
    exception = only(lines)["exception"]
    assert exception["code"] == "peer-refused"
    assert exception["message"] == "pacs refused 1.2.3"
    assert exception["cause"]["kind"] == "ValueError"
    assert "DOE" not in lines.getvalue()


def test_the_level_filters(lines: io.StringIO) -> None:
    logs.configure(LogSettings(level="WARNING"), lines)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert only(lines)["event"] == "loud"


def test_the_console_is_for_eyes(lines: io.StringIO) -> None:
    logs.configure(LogSettings(format="console"), lines)
    structlog.get_logger().info("receive.stored", PatientName="DOE", size_bytes=7)
    assert "receive.stored" in lines.getvalue()
    assert "size_bytes=7" in lines.getvalue()
    assert "DOE" not in lines.getvalue()


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), BrokenPipeError(), ValueError("closed")])
@pytest.mark.parametrize("style", ["json", "console"])
def test_a_log_that_cannot_be_written_stops_nothing(
    style: Literal["json", "console"], failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    logs.configure(LogSettings(format=style), stream)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "write", lambda _text: raise_(failure))
        structlog.get_logger().info("dropped")
        structlog.get_logger().exception("dropped")
        logging.getLogger("dbos").error("dropped")
    structlog.get_logger().info("told")
    assert "dropped" not in stream.getvalue()
    assert "told" in stream.getvalue()


def raise_(error: Exception) -> None:
    raise error
