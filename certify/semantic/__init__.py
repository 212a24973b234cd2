"""Certificates against transformations of images: rotation, translation, scale, shear, brightness, contrast, blur."""

from certify.semantic.certificate import SemanticCertificate
from certify.semantic.certification import certify_transformation
from certify.semantic.curves import TransformationCurves
from certify.semantic.random_draws import TransformationAccuracy, random_transformations
from certify.semantic.sets import TransformationSet
from certify.semantic.transformations import (
    Blur,
    Compose,
    Parameter,
    Photometric,
    Rotation,
    Scale,
    Shear,
    Transformation,
    Translation,
)

__all__ = [
    "Blur",
    "Compose",
    "Parameter",
    "Photometric",
    "Rotation",
    "Scale",
    "SemanticCertificate",
    "Shear",
    "Transformation",
    "TransformationAccuracy",
    "TransformationCurves",
    "TransformationSet",
    "Translation",
    "certify_transformation",
    "random_transformations",
]
