"""Tasks, their loaders and scorers, and the phantom world."""
