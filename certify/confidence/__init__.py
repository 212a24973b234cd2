"""Bounds on softmax confidences, detection of inputs of no known class, calibration.

May import ``certify.attacks`` and what lies below it.
"""
