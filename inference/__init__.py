"""Reading a hand radiograph: pixels, eligibility, regions of interest, bone age. No network, no SQL, no reports."""
