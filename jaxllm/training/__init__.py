"""The state of a run, its step, and what the loop around it needs."""
