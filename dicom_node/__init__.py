"""The DICOM node: receive, spool, assemble, interpret, compose, verify, deliver, commit."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("boneage-node")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
