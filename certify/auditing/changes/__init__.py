"""Audit of changed features and words, by a list of its own of what they may change to."""
