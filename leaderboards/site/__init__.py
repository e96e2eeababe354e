"""A front page over a folder of bundles: every published row, each number two clicks from the records behind it."""
