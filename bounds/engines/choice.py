"""The engines that compute bounds, and what has to hold of the arguments of each."""

from bounds import checks
from bounds.errors import InvalidInput

OWN, AUTO_LIRPA = "own", "auto_lirpa"
ENGINES = (OWN, AUTO_LIRPA)


def is_own(engine: str, sound: str, **settings: bool) -> bool:
    """Whether our own engine is asked for; another one must be asked for what it can give.

    Args:
        engine: ``"own"`` or ``"auto_lirpa"``.
        sound: which rounding errors are to be included.
        settings: whether each argument that speaks to our engine alone is as it is by default.
    """
    if checks.one_of("engine", engine, ENGINES) == OWN:
        return True
    if sound != "real":
        raise InvalidInput(
            f"sound must be 'real' with engine={engine!r}, got {sound!r}: its bounds leave rounding errors out, so "
            f"pass sound='real' if that will do"
        )
    for name, by_default in settings.items():
        if not by_default:
            raise InvalidInput(f"{name} must be left out with engine={engine!r}, which has rules of its own")
    return False
