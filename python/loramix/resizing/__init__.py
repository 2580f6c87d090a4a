"""One adapter in less room."""
