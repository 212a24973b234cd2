"""Independent re-derivation of what a run states, in exact arithmetic and by slow, plain code.

Formulas are written anew here, from the papers, and in integers, fractions or intervals whose ends are rounded outward.
Nothing of ``bounds``, and of ``smoothing`` only what draws noise, is called. May import ``configuration`` and
``evaluation``.
"""
