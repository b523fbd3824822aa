"""The rooms that people enter by: the command line, the doctor, the demo page."""
