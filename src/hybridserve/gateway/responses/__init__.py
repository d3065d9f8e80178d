"""Streaming and moderating the engine's response."""
