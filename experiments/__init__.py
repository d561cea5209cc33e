"""Command-line programs: each composes a config and instantiates what it names."""
