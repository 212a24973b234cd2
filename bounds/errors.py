"""Every exception this toolkit raises on purpose.

BoundsError
├── InvalidInput (also ValueError)   an argument breaks a stated rule
│   ├── InvalidModel                 the model cannot be used as a classifier here
│   ├── InvalidConfiguration         a configuration file or a run directory cannot be used
│   ├── InvalidProperty              a VNN-LIB text cannot be read, or says what cannot be represented
│   └── ManifestMismatch             a run may not be continued under other conditions
├── UnsupportedLayer (also NotImplementedError)   no bounding rule is known for a layer
└── WorkerLost (also RuntimeError)   a piece of work ended its worker again and again

Expected outcomes, such as an abstention or an attack that found nothing, are results and not exceptions.
"""


class BoundsError(Exception):
    """Base class of all errors raised on purpose by ``bounds`` and ``certify``."""


class InvalidInput(BoundsError, ValueError):
    """An argument breaks a rule; the message names the argument, the rule, the value and the remedy."""


class InvalidModel(InvalidInput):
    """The model is not a deterministic classifier of single inputs with the expected classes."""


class InvalidConfiguration(InvalidInput):
    """A configuration, a model or data file, or an output directory cannot be used."""


class InvalidProperty(InvalidInput):
    """A property cannot be read or represented; the message names the line and what stands there."""


class ManifestMismatch(InvalidInput):
    """A run directory was written under other conditions than the ones asked for now."""


class UnsupportedLayer(BoundsError, NotImplementedError):
    """A layer has no bounding rule; it is never skipped."""


class WorkerLost(BoundsError, RuntimeError):
    """A piece of work ended its worker again and again, such as by using up the memory."""
