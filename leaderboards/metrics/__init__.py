"""Metrics: calibration, discrimination, selective prediction."""
