"""Names of tensors: roles, dialects, module tables, architectures."""
