"""Training over its checkpoints, and what margins say of the generalisation gap."""
