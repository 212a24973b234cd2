"""Proofs that are written while a search goes on, for the checker."""
