"""Statements that a network and a copy of it with other weights share."""
