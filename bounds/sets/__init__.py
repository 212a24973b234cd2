"""Perturbation sets: balls, boxes, few changed entries; norms, projections, and the minimum of a linear function.

May import the ground modules of ``bounds`` alone.
"""
