"""Proofs of verdicts: their files, and a checker that shares no code with what found them.

Everything here needs the standard library, numpy and the package ``onnx`` alone: nothing of ``bounds``, and no torch.
May import nothing else of ``certify``.
"""
