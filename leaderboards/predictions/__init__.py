"""Predictions that another program made, as records: files, columns, and the board of them."""
