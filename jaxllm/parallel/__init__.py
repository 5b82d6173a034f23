"""Where arrays live: the axis vocabulary, the layout table, the mesh and the processes."""
