import subprocess
import sys

import pytest

HEAVY = ("jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "pyarrow", "gcsfs")


@pytest.mark.parametrize("module", ["jaxllm.data.prepare", "jaxllm.data.parts"])
def test_workers_that_tokenise_need_not_have_jax(module):
    """A cluster's workers import these; what is None in sys.modules cannot be imported."""
    script = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY!r}))
import {module}
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
