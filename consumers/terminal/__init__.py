"""The terminal: all that a person sees there."""
