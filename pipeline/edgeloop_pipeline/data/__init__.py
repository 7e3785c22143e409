"""Data: types, preparation, datasets, downloads, caches. A project's `data.py` imports these names from here."""

from edgeloop_contract.arrays import Array
from edgeloop_pipeline.data.types import Data, PreparedSplits, Samples, Split, Splits

__all__ = ["Array", "Data", "PreparedSplits", "Samples", "Split", "Splits"]
