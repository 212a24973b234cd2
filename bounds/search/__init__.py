"""Branch and bound: a box or its neurons are split until every part is proved, or a counterexample is found.

May import the ground modules of ``bounds``, ``sets``, ``relaxations``, ``graph`` and ``linear``.
"""
