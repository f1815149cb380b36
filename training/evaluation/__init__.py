"""What a reading method is worth: figures, pictures, a report, acceptance and a site's recalibration."""
