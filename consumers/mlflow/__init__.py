"""Runs in MLflow, written from the topics and read back."""
