"""Studies of a network by attacks: gradient masking, universal perturbations, smoothed classifiers.

May import every other room of ``certify.attacks``.
"""
