"""What was asked and answered: the model that methods see, and the store behind it."""
