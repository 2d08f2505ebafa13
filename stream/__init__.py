"""The pure core: events in, outputs out. No clock, no file, no network, no thread."""
