"""Several runs on one board, public bundles, and their verification."""
