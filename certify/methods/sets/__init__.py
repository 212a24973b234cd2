"""Methods for sets of perturbations in the place of norms, and the kinds of these sets."""
