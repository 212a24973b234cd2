"""Records of an evaluation as figures: tables, sheets, groups, contradictions, details and planes of single inputs."""
