"""What will be done: groups with their choices become the steps of a plan."""
