"""Certificates against changes of the training set, by counting the votes of classifiers trained on parts of it."""

from certify.poisoning.certificates import PoisoningCertificate, certify_poisoning
from certify.poisoning.partitions import hash_partition, spread_partitions, training_rows

__all__ = [
    "PoisoningCertificate",
    "certify_poisoning",
    "hash_partition",
    "spread_partitions",
    "training_rows",
]
