"""The stories: one verb a file."""
