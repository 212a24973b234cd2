"""Random noise against adversarial distances: crossings of boundaries and the sqrt(D) law.

May import the ground modules of ``bounds``, ``statistics``, ``relaxations``, ``operations`` and ``graph``.
"""
