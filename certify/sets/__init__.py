"""Sets of perturbations in the place of a norm: what they have in common, their curves, random draws from them."""
