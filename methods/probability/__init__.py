"""Confidences from the probabilities that the model gives to its own words."""
