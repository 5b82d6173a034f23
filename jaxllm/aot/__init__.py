"""What a compiled TPU program says, read ahead of time: memory, predicted time, collectives."""
