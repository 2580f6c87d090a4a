"""The matrix: which adapters are put together, by which methods, and what comes of it."""
