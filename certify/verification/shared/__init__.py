"""One perturbation that all inputs share: how many it can change."""
