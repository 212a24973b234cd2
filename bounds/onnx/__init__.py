"""ONNX files as networks: read operator by operator, without ``torch.export``.

May import the ground modules of ``bounds``, ``operations``, ``decompositions`` and ``graph``. The package ``onnx`` is
imported where a file is read, and nowhere else.
"""
