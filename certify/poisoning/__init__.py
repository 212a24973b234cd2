"""Certificates against changes of the training set, by counting the votes of classifiers trained on parts of it."""

from certify.poisoning.certificates import PoisoningCertificate, certify_poisoning
from certify.poisoning.partitions import hash_partition, spread_partitions, training_rows
from certify.poisoning.runoff import certify_runoff

__all__ = [
    "PoisoningCertificate",
    "certify_poisoning",
    "certify_runoff",
    "hash_partition",
    "spread_partitions",
    "training_rows",
]
