"""Training: the base, its adapters, the judge."""
