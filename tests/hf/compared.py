"""What a recorded case and ours have to agree in, each within 20 times the reference's own noise.

That noise, how far its float32 is from its float64, is one figure a case and quantity, the largest
of all numbers compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
from tiny import fast

from jaxllm.hf.weights import tensors
from jaxllm.optim.adamw import AdamW
from jaxllm.optim.schedules import Constant

from .published import grad_norms

# A single number may happen to have no noise, its float32 being the float64 rounded. Another order
# of a sum of a few dozen terms is some units in the last place away.
ULPS = 4 * float(np.finfo(np.float32).eps)


def remembering(method, results):
    """The method, whose results are kept in a list: states that a caller does not pass on."""

    def call(*arguments, **options):
        results.append(method(*arguments, **options))
        return results[-1]

    return call


def check_outputs(case, outputs, masks):
    """masks: output -> where its rows mean something; default everywhere."""
    for key, found in outputs.items():
        expected = case.reference[key]
        assert found.shape == expected.shape, key
        mask = masks.get(key, np.ones(1)) > 0
        mask = mask.reshape(mask.shape + (1,) * (found.ndim - mask.ndim))
        error = np.abs(np.where(mask, found, 0) - expected).max()
        assert error <= case.noise(key), key


def check_loss(case, loss):
    expected = float(case.reference["loss"])
    assert abs(float(loss) - expected) <= max(case.noise("loss"), ULPS * expected)


def check_gradients(case, gradients):
    """Their norms, by the names on disk."""
    found = {
        tensor.name: float(np.linalg.norm(tensor.make().astype(np.float64)))
        for tensor in tensors(gradients, specs=case.specs, rows=case.rows)
    }
    expected = grad_norms(case)
    assert found.keys() == expected.keys()
    relative, of_zeros = case.noise("grad_norms"), case.noise("zero_grad_norms")
    for tensor, norm in expected.items():
        assert abs(found[tensor] - norm) <= (relative * norm if norm else of_zeros), tensor


def check_adamw_losses(case, params, differentiate):
    """The losses before each of a few updates by jaxllm's optimizer.

    differentiate: params -> ((loss, anything), gradients).
    """
    expected = case.reference["adamw_losses"]
    optimizer = AdamW(learning_rate=1e-3, schedule=Constant(), clip_norm=None)
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.95)
    assert (optimizer.weight_decay, optimizer.eps) == (0.1, 1e-8)
    transform = optimizer.build(case.specs, total_steps=len(expected))
    update, state, losses = fast(transform.update), transform.init(params), []
    for _ in expected:
        (loss, _), gradients = differentiate(params)
        losses.append(float(loss))
        updates, state = update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    allowed = max(case.noise("adamw_losses"), ULPS * expected.max())
    assert losses[0] - losses[-1] > 100 * allowed
    np.testing.assert_allclose(losses, expected, rtol=0, atol=allowed)
