"""What differs between two adapters: measured, judged, told."""
