"""Layers. They know what a dimension is (logical axes), never where it lives."""
