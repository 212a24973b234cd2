"""``certify doctor``: what an installation can do, and what seems wrong with a model and its data."""
