"""Films to train on, whatever layout they lie in: RSNA's own, a site's DICOM objects, boxes of other tools."""

from training.sources.source import Entry, Source, open_source

__all__ = ["Entry", "Source", "open_source"]
