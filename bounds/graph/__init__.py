"""Networks as graphs of operations, captured by ``torch.export``.

May import the ground modules of ``bounds``, ``sets``, ``statistics``, ``relaxations``, ``operations`` and
``decompositions``.
"""
