"""A small world in which merges and compositions of adapters can be judged by their pictures."""
