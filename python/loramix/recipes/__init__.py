"""What a user wants, as a file: adapters, weights by block, rules by target, output."""
