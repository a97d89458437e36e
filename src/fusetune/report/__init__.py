"""The report: one self-contained HTML page from the result of a finished run; beside it those of checks and rows."""
