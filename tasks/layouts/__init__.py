"""Readers of official on-disk layouts."""
