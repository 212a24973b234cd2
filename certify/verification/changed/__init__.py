"""Proofs that no few changes of features or words change a decision."""
