"""Eight virtual CPU devices for every test, whatever the machine has; before JAX is imported."""

import os

_DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["ABSL_MIN_LOG_LEVEL"] = "3"
# A program cached by another run could hide that today's code no longer compiles.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
