"""Files as named tensors; nothing here knows what an adapter is."""
