"""The difference of two models of one architecture, as an adapter."""
