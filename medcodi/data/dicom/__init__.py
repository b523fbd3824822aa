"""DICOM radiographs: reading tags and pixels, and writing generated images."""
