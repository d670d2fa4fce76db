"""What came out of an experiment: rows, tables, verdicts, pictures and a page."""
