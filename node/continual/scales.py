"""By how much the merged task vector is scaled where a stream says `auto`.

With a gate: the factor among `TRIED` whose head scores best, the smallest of equal ones.
Without: one, the method's own strength.
"""

from typing import Final

TRIED: Final = (0.3, 0.5, 0.7, 1.0)
