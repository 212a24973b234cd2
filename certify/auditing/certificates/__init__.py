"""Certificates of the model itself, proved once more from its weights, run once more, or refuted by an example."""
