"""What makes the phantom world's base model."""
