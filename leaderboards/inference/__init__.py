"""What is inferred from metrics: intervals, comparisons, null bands."""
