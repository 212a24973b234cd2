"""Rules for each operation of a captured network."""

from bounds.operations.affine import AFFINE as AFFINE
from bounds.operations.affine import DIFFERENCE as DIFFERENCE
from bounds.operations.affine import ENTRYWISE as ENTRYWISE
from bounds.operations.affine import MATRIX as MATRIX
from bounds.operations.affine import MOVE as MOVE
from bounds.operations.affine import QUOTIENT as QUOTIENT
from bounds.operations.affine import REDUCTION as REDUCTION
from bounds.operations.affine import RESHAPE as RESHAPE
from bounds.operations.affine import SCALING as SCALING
from bounds.operations.affine import SELECTION as SELECTION
from bounds.operations.affine import SUM as SUM
from bounds.operations.affine import Affine as Affine
from bounds.operations.affine import affine as affine
from bounds.operations.functions import FUNCTIONS as FUNCTIONS
from bounds.operations.functions import Maker as Maker
