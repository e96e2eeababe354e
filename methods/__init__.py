"""Confidence methods, one file each."""
