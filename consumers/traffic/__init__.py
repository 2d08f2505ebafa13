"""Events for the topics: files replayed, lines produced, the demo's stream."""
