"""Command lines: each composes a config and instantiates what it names."""
