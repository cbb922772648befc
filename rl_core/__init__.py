"""The domain of banditloop: a contextual bandit that is served, logged, joined, trained, judged and deployed.

Imports numpy and pyarrow only; TensorFlow is imported inside the functions of `policy/saved_model.py`.
"""

__version__ = "0.2.0"
