"""The command line: every command of ``medcodi``, the demo page, the table of parameters."""
