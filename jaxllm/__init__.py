"""jaxllm trains language models on TPU pods with JAX and Flax."""
