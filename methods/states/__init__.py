"""Confidences from the hidden states of the tokens of a claim."""
