"""Published models in the Hugging Face layout: found, read and written."""

from jaxllm.hf.model import Model, load_model, save_model

__all__ = ["Model", "load_model", "save_model"]
