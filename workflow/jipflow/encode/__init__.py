"""DICOM objects from results."""

import warnings

# highdicom cites the patient's name where it doubts its form, and logs must not hold names.
warnings.filterwarnings("ignore", message='The string ".*" is unlikely to represent the intended')
