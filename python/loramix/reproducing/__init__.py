"""An output made again from what it says of itself, and compared."""
