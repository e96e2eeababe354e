"""An example of a plugin package for conrad-bench."""
