"""Judging: what is in a picture, how far it is from the truth, and how sure the figures are."""
