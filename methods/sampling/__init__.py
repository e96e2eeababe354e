"""Confidences from several sampled responses to one prompt."""
