"""Pass 1: what the adapters do to each other.  Only small statistics survive it."""
