"""Perturbation sets: balls, boxes, few changed entries, and the minimum of a linear function over them.

May import the ground modules of ``bounds`` alone.
"""
