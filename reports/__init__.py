"""Writing a finding into DICOM: Structured Report, secondary capture, and the check that reads both back."""
