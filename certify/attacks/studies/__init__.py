"""What attacks tell about a network: gradient masking, universal perturbations, smoothed classifiers.

May import every other room of ``certify.attacks``.
"""
