"""ODEs with exact solutions, under the name by which torchdiffeq's readers look for them.

They are defined in `cunet.problems`, because notebook 01 measures on them too.
"""

from cunet.problems import PROBLEMS, Problem

__all__ = ["PROBLEMS", "Problem"]
