"""Rules for each operation of a captured network."""

from bounds.operations.affine import AFFINE as AFFINE
from bounds.operations.affine import Affine as Affine
from bounds.operations.affine import affine as affine
from bounds.operations.functions import FUNCTIONS as FUNCTIONS
from bounds.operations.functions import Maker as Maker
