"""Attacks: inputs that break a model, each re-checked before it is believed."""

from certify.attacks.minimal import minimal_perturbation

__all__ = ["minimal_perturbation"]
