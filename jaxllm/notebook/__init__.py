"""What a notebook shows: runs, curves, meshes and compiled steps, each drawn by itself.

Nothing is imported here, so that `session` can look at a notebook's libraries before JAX is loaded.
"""
