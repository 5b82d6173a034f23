"""TPU slices by name, as devices that programs can be compiled for on a machine without them."""

import importlib.util
import re
from dataclasses import dataclass
from importlib import metadata

import jax

from jaxllm.hardware import TPUS, Tpu, quiet_tpu_runtime

# The compiler's version that predictions and golden files were made with.
PINNED_LIBTPU = "0.0.50.1"


@dataclass(frozen=True)
class Topology:
    """`num_slices` equal slices of one TPU generation. shape: chips along each dimension."""

    tpu: Tpu
    shape: tuple[int, ...]
    num_slices: int = 1

    @property
    def name(self) -> str:
        """As the compiler calls one slice, for example v5p:2x2x4."""
        return f"{self.tpu.name}:{'x'.join(map(str, self.shape))}"

    @property
    def is_ring(self) -> tuple[bool, ...]:
        """Whether each of three dimensions closes to a ring."""
        closed = [size % self.tpu.ring_length == 0 for size in self.shape]
        if self.tpu.torus_dims == 3:
            closed = [all(closed)] * len(closed)
        return (*closed, False, False, False)[:3]


def parse_topology(text: str, *, num_slices: int = 1) -> Topology:
    """The topology of `v5p:2x2x4`, or of a pod's name such as v5p-32 or v5litepod-16.

    ValueError that lists what there is.
    """
    if num_slices < 1:
        raise ValueError(f"--slices {num_slices}: give 1 or more")
    name = text.strip().lower().replace("v5litepod", "v5e")
    parts = re.fullmatch(r"([a-z0-9]+)([:-])([0-9x]+)", name)
    tpu = TPUS.get(parts[1]) if parts else None
    if parts is None or tpu is None:
        raise ValueError(f"unknown topology {text!r}; known are\n{list_topologies()}")
    shape_text = parts[3] if parts[2] == ":" else tpu.pods.get(name)
    if shape_text is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape_text):
        raise ValueError(
            f"unknown topology {text!r}; known are\n{_lines(tpu)}\n"
            f"or another shape of {tpu.torus_dims} dimensions as {tpu.name}:AxB"
            + ("xC" if tpu.torus_dims == 3 else "")
        )
    shape = tuple(map(int, shape_text.split("x")))
    if len(shape) > tpu.torus_dims:
        raise ValueError(f"topology {text!r}: a {tpu.name} slice has {tpu.torus_dims} dimensions")
    return Topology(tpu, shape, num_slices)


def list_topologies() -> str:
    """Every published slice with its pod name, a line a generation."""
    return "\n".join(_lines(tpu) for tpu in TPUS.values())


def _lines(tpu: Tpu) -> str:
    return "  " + ", ".join(f"{tpu.name}:{shape} ({pod})" for pod, shape in tpu.pods.items())


def topology_devices(topology: Topology) -> list[jax.Device]:
    """The topology's devices, which compile but do not run.

    ValueError where the compiler is not installed or knows no such slice.
    """
    from jax.experimental import topologies

    require_libtpu()
    several = {"num_slices": topology.num_slices} if topology.num_slices > 1 else {}
    try:
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology.name,
            chip_config_name=topology.tpu.chip_config,
            **several,
        )
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"topology {topology.name}: the TPU compiler refuses it: {reason}\n"
            f"published slices are\n{_lines(topology.tpu)}"
        ) from error
    return list(described.devices)


def require_libtpu() -> None:
    """Make the TPU compiler ready to load quietly; ValueError where it is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "compiling for a TPU needs its compiler, libtpu, which is not installed; on x86 Linux: "
            'pip install "jaxllm[aot]"'
        )
    quiet_tpu_runtime()
    if not jax.config.jax_platforms:
        # The machine's own devices compute nothing here, and looking for a TPU would only warn.
        jax.config.update("jax_platforms", "cpu")


def compiler_versions() -> dict[str, str]:
    """Versions of what decides the compiled program."""
    return {name: metadata.version(name) for name in ("libtpu", "jax", "jaxlib")}
