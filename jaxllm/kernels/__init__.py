"""Fused operations, one a file, each beside its plain reference."""
