"""Vectors of words without an endpoint, and the words that stand for clusters of vectors.

Both need scikit-learn, the extra `cluster`, which is imported at the first need. One thread does all: several add
up in the order of their arrival, and rounding could change a cluster (on small matrices they are slower, too).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from promptopt.errors import ConfigError

N_DIMENSIONS = 64


def ngram_vectors(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return float[n, d], rows of unit length: TF-IDF of character n-grams, reduced by a truncated SVD.

    d is at most 64. Texts that share spelling are near; meaning is not known to it.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    _check_installed("word vectors without an embedding endpoint need")
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits

    # Equal texts have no variance, of which the SVD takes a share that is not used here.
    with threadpool_limits(1), np.errstate(invalid="ignore"):
        grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True).fit_transform(texts)
        n = min(N_DIMENSIONS, min(grams.shape) - 1)
        rows = grams.toarray() if n < 1 else TruncatedSVD(n, random_state=0).fit_transform(grams)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    vectors: NDArray[np.float64] = rows / np.where(norms > 0, norms, 1)
    return vectors


def representatives(vectors: NDArray[np.float64], k: int, seed: int) -> tuple[int, ...]:
    """Return the indices of the vectors nearest to the centroids of `k` clusters, ascending, each once.

    k-means with k-means++ initialisation, Euclidean (Lloyd). Fewer than `k` are returned where a vector is the
    nearest to several centroids; all of them, unclustered, where `k` is at least their number.

    Args:
        vectors: float[n, d].
        seed: decides the initialisation, from 0 to 2**32 - 1.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    if k >= len(vectors):
        return tuple(range(len(vectors)))
    _check_installed("clusters of words need")
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        # Equal vectors make fewer clusters than asked for, about which scikit-learn would warn.
        n_distinct = len(np.unique(vectors, axis=0))
        means = KMeans(min(k, n_distinct), init="k-means++", n_init=1, random_state=seed).fit(vectors)
        nearest = pairwise_distances_argmin(means.cluster_centers_, vectors)
    return tuple(sorted({int(i) for i in nearest}))


def _check_installed(need: str) -> None:
    """Raise ConfigError, saying what needs it, where scikit-learn is not installed."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{need} scikit-learn; install it with pip install 'promptopt-suite[cluster]'"
        ) from error
