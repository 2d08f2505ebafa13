"""Signals: the series of numbers that detectors watch, and what makes outcomes such numbers."""
