"""Commands for properties of networks: one query, a folder of queries, and the check of a proof."""
