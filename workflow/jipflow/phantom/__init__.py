"""A synthetic cohort: DICOM patients whose anatomy, volumes and defects are known."""
