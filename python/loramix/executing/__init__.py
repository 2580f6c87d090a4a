"""What a plan says is carried out, measured, and verified before it gets its name."""
