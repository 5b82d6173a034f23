"""Models of the Hugging Face layout: found, read and written."""
