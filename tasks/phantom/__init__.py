"""The phantom world: synthetic chest radiographs with reports whose correctness can be computed exactly.

It stands in where no credentialed data is at hand, and runs through the same loaders, engines, methods and statistics.
"""

STUDIES = 3000
"""Number of studies in phantom data unless another is asked for."""

SIGNATURE = "Synthetic data: phantom"
"""What the README.txt of every phantom tree begins with."""

MOST_STUDIES = 1_000_000
"""So many can be asked for: a slip of the pen shall not fill a disk."""
