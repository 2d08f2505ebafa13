"""The broker in a folder: SQLite, no server, several processes on one machine."""
