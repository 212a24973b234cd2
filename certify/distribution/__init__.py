"""Places where work runs: other processes, other devices, other machines.

Nothing here knows what is computed: a pool applies functions to items, with something that all of them share.
"""

from certify.distribution.engines import Engine, Pool
from certify.distribution.processes import Processes
from certify.distribution.ray import Ray
from certify.distribution.shards import Shard

__all__ = ["Engine", "Pool", "Processes", "Ray", "Shard"]
