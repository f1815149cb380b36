"""Outside programs that judge DICOM documents, what each complains of, and the exceptions made, each with its reason.

A complaint is one line. ``complaints`` leaves out greetings and progress, nothing else; whoever judges documents takes
every complaint that no exception names for a fault, and an exception that never occurs as well (``tests/reports``).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

REPORTS = ("sr", "sr-2d", "text")
TREES = (*REPORTS, "kos")
EVERY_KIND = (*TREES, "sc", "gsps", "pdf")

PIXELMED_JAR = Path("/usr/share/java/pixelmed.jar")
JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    # Java 17 counts the operators of an XPath and gives up on a whole template.
    *(f"-Djdk.xml.xpath{limit}=0" for limit in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")),
)

Programs = Mapping[str, str]
"""Name of a program and its path."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A program that looks at documents.

    ``peer`` names what has to be installed, ``kinds`` the documents it knows; ``complaints`` returns what it says
    against one, an exit status other than 0 included.
    """

    peer: str
    kinds: tuple[str, ...]
    complaints: Callable[[Programs, Path], list[str]]


@dataclass(frozen=True, slots=True)
class Exemption:
    """A complaint that is no fault: the judge, a regular expression of the whole line, and why."""

    judge: str
    pattern: str
    reason: str


def unexplained(judge: str, said: list[str]) -> list[str]:
    """Return the complaints of a judge that no exemption names."""
    patterns = [exemption.pattern for exemption in EXEMPTIONS if exemption.judge == judge]
    return [line for line in said if not any(re.fullmatch(pattern, line) for pattern in patterns)]


def unused(judge: str, said: list[str]) -> list[str]:
    """Return the patterns of a judge's exemptions that name none of these complaints."""
    patterns = [exemption.pattern for exemption in EXEMPTIONS if exemption.judge == judge]
    return [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in said)]


def _run(*command: str | Path) -> tuple[list[str], list[str]]:
    """Return the lines a program said, and a complaint where it failed."""
    ran = subprocess.run([*map(str, command)], capture_output=True, check=False, timeout=300)
    lines = (ran.stdout + ran.stderr).decode("utf-8", "replace").splitlines()
    return lines, [] if ran.returncode == 0 else [f"exit status {ran.returncode}"]


def _dciodvfy(programs: Programs, document: Path) -> list[str]:
    lines, failed = _run(programs["dciodvfy"], "-new", document)
    # Its exit status says that it found errors; they are among the lines.
    return [line for line in lines if line.startswith(("Error", "Warning"))] or failed


def _dcsrdump(programs: Programs, document: Path) -> list[str]:
    lines, failed = _run(programs["dcsrdump"], document)
    return [line for line in lines if line.lower().startswith(("error", "warning"))] + failed


def _dsrdump(programs: Programs, document: Path) -> list[str]:
    lines, failed = _run(programs["dsrdump"], document)
    return [line for line in lines if line.startswith(("W:", "E:", "F:"))] + failed


def _dsr2html(programs: Programs, document: Path) -> list[str]:
    lines, failed = _run(programs["dsr2html"], "+U8", document, os.devnull)
    return [line for line in lines if line.startswith(("W:", "E:", "F:"))] + failed


def _dcmpschk(programs: Programs, document: Path) -> list[str]:
    """Return its complaints, each in one line: an error takes several of its, and so does a value with line ends."""
    lines, failed = _run(programs["dcmpschk"], document)
    said = "\n".join(line for line in lines if not re.match(r"W: (Testing: |Test (passed|failed))", line))
    whole = re.sub(r"(?s)(?<=Attribute value   : \[).*?(?=\]\n)", lambda value: value[0].replace("\nE: ", " "), said)
    joined = re.sub(r"\n?E: +(?=Affected|Attribute|Expected)", "; ", whole)
    return [line for line in joined.splitlines() if line.strip() != "E:"] + failed


def _validator(programs: Programs, document: Path) -> list[str]:
    command = (*JAVA_OPTIONS, "-cp", str(PIXELMED_JAR), "com.pixelmed.validate.DicomSRValidator")
    lines, failed = _run(programs["java"], *command, document)
    finished = [] if "IOD validation complete" in lines else ["it did not finish"]
    said = [
        line
        for line in lines
        if not line.startswith("Found ") and not line.endswith(("alidation Complete", "complete"))
    ]
    return said + finished + failed


def _tid1500reader(programs: Programs, document: Path) -> list[str]:
    metadata = document.with_suffix(".json")
    lines, failed = _run(programs["tid1500reader"], "--inputDICOM", document, "--outputMetadata", metadata)
    return [line for line in lines if line and not line.startswith("dcmqi repository URL")] + failed


JUDGES: Mapping[str, Judge] = {
    "dciodvfy": Judge("dicom3tools", EVERY_KIND, _dciodvfy),
    "dcsrdump": Judge("dicom3tools", TREES, _dcsrdump),
    "dsrdump": Judge("dcmtk", TREES, _dsrdump),
    "dsr2html": Judge("dcmtk", TREES, _dsr2html),
    "dcmpschk": Judge("dcmtk", EVERY_KIND, _dcmpschk),
    "DicomSRValidator": Judge("pixelmed", TREES, _validator),
    "tid1500reader": Judge("dcmqi", ("sr", "sr-2d"), _tid1500reader),
}

_OWN = (
    "the private scheme of our own concepts; it is declared in the document, and the judge knows none but public ones"
)
_UNCHECKED = r"W: The VR checker does not support this Specific Character Set: ISO_IR 192"
_CHARACTERS = "the judge reads UTF-8, and says that it does not check the letters of values in it"
_TEMPLATES = "the judge says that it does not check the template of key objects"
_MEASUREMENT = (
    "properties of a measurement are HAS PROPERTIES (TID 310); the judge takes every number or code below one for"
    " TID 300's open rows"
)

EXEMPTIONS: tuple[Exemption, ...] = (
    Exemption("dciodvfy", r"Warning - .* - Unrecognized defined term = <99BONEAGE>", _OWN),
    Exemption("dciodvfy", r"Warning - .*CodingSchemeUID.* - Unrecognized defined term = <2\.25\.\d+>", _OWN),
    Exemption(
        "dciodvfy",
        r"Warning - .* - Missing attribute or value that would be needed to build DICOMDIR",
        "type 2 attributes that the image lacks are left empty, never invented; nobody makes a DICOMDIR here",
    ),
    Exemption(
        "dciodvfy",
        r"Warning - </Laterality\(0020,0060\)> - is only permitted to be empty when actually unknown; .*",
        "it is unknown: no hand was read, or nothing said which",
    ),
    Exemption("dsrdump", r"W: Check for template constraints not yet supported", _TEMPLATES),
    Exemption("dsr2html", r"W: Check for template constraints not yet supported", _TEMPLATES),
    Exemption("dsrdump", _UNCHECKED, _CHARACTERS),
    Exemption("dsr2html", _UNCHECKED, _CHARACTERS),
    Exemption("tid1500reader", _UNCHECKED, _CHARACTERS),
    Exemption(
        "dcmpschk",
        r"E: Error: Attribute value does not conform to data type definition\.; .*[^\x00-\x7f].*",
        "it takes each byte of a letter in UTF-8 for one of Latin-1, and some of them are control characters there",
    ),
    Exemption(
        "dcmpschk",
        r"W: patientName absent or empty in presentation state",
        "it is of type 2 and the image has none",
    ),
    Exemption(
        "DicomSRValidator",
        r"Error: .*Code \(37362-1,LN,\"XR Bones Bone age\"\) not found in context group 100",
        "CID 100 is extensible and has no bone age",
    ),
    Exemption(
        "DicomSRValidator",
        r"Error: Template 300 .* NUM .*: Incorrect relationship - expected INFERRED FROM - found HAS PROPERTIES",
        _MEASUREMENT,
    ),
    Exemption(
        "DicomSRValidator",
        r"Error: Template 300 .* CODE .*: Incorrect relationship - expected HAS CONCEPT MOD - found HAS PROPERTIES",
        _MEASUREMENT,
    ),
    Exemption(
        "DicomSRValidator",
        r"Warning: .*: Content Item not in template",
        "TID 300, 1410, 1500 and 2000 are extensible; viewers pass over what they do not know",
    ),
    Exemption(
        "tid1500reader",
        r"Found concept that is not known, and as such is qualitative: \(122405,DCM,\"Algorithm Manufacturer\"\)",
        "it reads an item beyond the rows it knows as a qualitative one, which is harmless",
    ),
    Exemption(
        "tid1500reader",
        r"Found concept that is not known, and as such is qualitative: \(121106,DCM,\"Comment\"\)",
        "it reads an item beyond the rows it knows as a qualitative one, which is harmless",
    ),
)
