"""Eight virtual CPU devices for every test, whatever the machine has; before JAX is imported.

Tests marked `libtpu` need the TPU compiler: without it they are skipped, and fail with
JAXLLM_REQUIRE_LIBTPU=1, so that no machine that must have it goes green without them.
"""

import importlib.util
import os

import pytest

pytest_plugins = ["gcs"]  # buckets of an emulated Cloud Storage

_DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["ABSL_MIN_LOG_LEVEL"] = "3"
# A program cached by another run could hide that today's code no longer compiles.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("libtpu") and importlib.util.find_spec("libtpu") is None:
        missing = "needs the TPU compiler: make compiler, on x86 Linux"
        if os.environ.get("JAXLLM_REQUIRE_LIBTPU") == "1":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
