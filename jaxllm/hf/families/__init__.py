"""The families of published models, one a file."""
