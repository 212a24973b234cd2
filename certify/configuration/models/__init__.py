"""Models that a configuration names, from files that must not run code, and from libraries."""
