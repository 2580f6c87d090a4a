"""The report: tables, a page of pictures, a figure, and docs/QUALITY.md, all from the record."""
