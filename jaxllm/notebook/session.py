"""The first cell of a notebook: what was just installed, and whether this session may go on.

Nothing heavy is imported before that is known: a library that was loaded before a newer one was
installed stays the old one until the session is restarted.
"""

import importlib.metadata
import sys
from collections.abc import Mapping

# Those that a machine with older ones may have loaded before this notebook's first cell.
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "pyarrow", "pydantic")

_RESTART = (
    "restart the session (Runtime > Restart session, or Kernel > Restart) and run all cells again"
)


def ready(*, virtual_devices: int | None = None) -> str:
    """Load JAX; returns what it runs on, in a line.

    virtual_devices: so many devices of the CPU in place of what the machine has. RuntimeError
    where the session has to be restarted first.
    """
    due = restart_words(loaded_versions(), installed_versions())
    if due:
        raise RuntimeError(due)
    import jax

    from jaxllm.hardware import quiet_tpu_runtime

    quiet_tpu_runtime()
    if virtual_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        try:
            jax.config.update("jax_num_cpu_devices", virtual_devices)
        except RuntimeError as error:  # JAX runs already
            if jax.device_count() != virtual_devices:
                raise RuntimeError(f"for {virtual_devices} virtual devices {_RESTART}") from error
    devices = jax.devices()
    return (
        f"jaxllm {importlib.metadata.version('jaxllm')}, jax {jax.__version__}, "
        f"Python {sys.version.split()[0]}, {len(devices)} x {devices[0].device_kind}"
    )


def restart_words(loaded: Mapping[str, str], installed: Mapping[str, str]) -> str | None:
    """What to do where a library is loaded in another version than the installed; None if none is.

    loaded, installed: versions by module.
    """
    stale = [
        f"{name} {version} is loaded, {installed[name]} is installed"
        for name, version in loaded.items()
        if name in installed and installed[name] != version
    ]
    return f"{_RESTART}: {'; '.join(stale)}" if stale else None


def loaded_versions() -> dict[str, str]:
    """The versions of `LIBRARIES` as far as they are loaded."""
    return {name: sys.modules[name].__version__ for name in LIBRARIES if name in sys.modules}


def installed_versions() -> dict[str, str]:
    """The versions of `LIBRARIES` that are installed."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}
