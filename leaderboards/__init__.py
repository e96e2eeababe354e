"""Leaderboards: metrics, bootstrap intervals, tables and figures, computed from records alone."""
