"""What tells one set of weights from another, wherever and however they lie."""

import hashlib
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxllm.training.replicas import hash_bits


def fingerprint(weights: Any) -> str:
    """Hexadecimal digits that another bit in any of the arrays changes, but no layout.

    weights: a tree of arrays, laid out by NamedShardings of one mesh. All processes call it
    together. It finds accidents; it is no proof against somebody who means to deceive.
    """
    leaves = jax.tree.leaves_with_path(weights)
    everywhere = NamedSharding(leaves[0][1].sharding.mesh, PartitionSpec())
    hash_all = jax.jit(lambda arrays: [hash_bits(x) for x in arrays], out_shardings=everywhere)
    hashes = jax.device_get(hash_all([leaf for _, leaf in leaves]))
    digest = hashlib.sha256()
    for (path, leaf), number in zip(leaves, hashes, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        digest.update(f"{name} {leaf.size} {int(number)}\n".encode())
    return digest.hexdigest()[:32]
