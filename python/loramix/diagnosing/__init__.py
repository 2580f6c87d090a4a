"""What is wrong with a file, and how to mend it: rules that look, and nothing that changes."""
