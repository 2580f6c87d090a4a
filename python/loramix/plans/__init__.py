"""Plans as files: everything that was decided, to read, to edit, and to carry out later."""

FORMAT = 1
"""Of the files; readers refuse others."""
