"""What the stand-ins believe about Google's services, as checks that run against either.

tests/cloud/test_beliefs.py holds the stand-ins to them, `make smoke-gcp PROJECT=…` a real project: where the two
answers differ, a stand-in is wrong.
"""

from stand_ins.beliefs.bigquery import BELIEFS as _BIGQUERY
from stand_ins.beliefs.pubsub import BELIEFS as _PUBSUB
from stand_ins.beliefs.scratch import Belief, Scratch
from stand_ins.beliefs.serving import BELIEFS as _SERVING
from stand_ins.beliefs.storage import BELIEFS as _STORAGE
from stand_ins.beliefs.vertex import BELIEFS as _VERTEX

__all__ = ["BELIEFS", "Belief", "Scratch"]

BELIEFS: tuple[Belief, ...] = (*_BIGQUERY, *_PUBSUB, *_STORAGE, *_VERTEX, *_SERVING)
