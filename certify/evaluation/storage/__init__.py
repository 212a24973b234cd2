"""A run on disk: its manifest, its lines and their hash chain, its tensors, and the repair of what was damaged."""
