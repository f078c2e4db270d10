"""Word vectors from spelling, and the words that stand for clusters."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from promptopt.embedding import N_DIMENSIONS, ngram_vectors, representatives
from promptopt.errors import ConfigError

WORDS = ("banking", "banker", "bank", "green", "greener", "greenest", "tomorrow", "sorrow")


def test_vectors_are_of_unit_length_and_put_like_spelling_near() -> None:
    vectors = ngram_vectors(WORDS)
    assert vectors.shape == (len(WORDS), min(N_DIMENSIONS, len(WORDS) - 1))
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 3]
    assert near[3, 4] > near[3, 0]


@pytest.mark.parametrize("texts", [("one",), ("one", "two"), ("same", "same")])
def test_few_texts_have_vectors(texts: tuple[str, ...]) -> None:
    vectors = ngram_vectors(texts)
    assert len(vectors) == len(texts)
    assert np.isfinite(vectors).all()


def test_a_representative_is_the_member_nearest_to_its_centroid() -> None:
    points = np.random.default_rng(0).normal(size=(60, 3))
    found = representatives(points, 7, seed=5)
    with threadpool_limits(1):
        centroids = KMeans(7, n_init=1, random_state=5).fit(points).cluster_centers_
    assert found == tuple(sorted(set(np.argmin(cdist(centroids, points), axis=1).tolist())))
    assert len(found) <= 7
    assert all(0 <= i < 60 for i in found)


def test_planted_clusters_get_one_representative_each() -> None:
    rng = np.random.default_rng(1)
    points = np.vstack([centre + 0.01 * rng.normal(size=(10, 2)) for centre in ((0, 0), (5, 0), (0, 5))])
    assert sorted(i // 10 for i in representatives(points, 3, seed=0)) == [0, 1, 2]


@pytest.mark.parametrize("k", [8, 9, 1000])
def test_as_many_clusters_as_vectors_is_the_identity(k: int) -> None:
    assert representatives(np.eye(8), k, seed=0) == tuple(range(8))


def test_equal_vectors_are_merged_and_no_word_stands_twice() -> None:
    points = np.repeat(np.array([[0.0], [1.0], [9.0]]), 5, axis=0)
    found = representatives(points, 6, seed=0)
    assert len(found) == 3
    assert {float(points[i, 0]) for i in found} == {0.0, 1.0, 9.0}


def test_the_seed_alone_decides() -> None:
    points = np.random.default_rng(2).normal(size=(200, 4))
    first = representatives(points, 12, seed=3)
    assert representatives(points, 12, seed=3) == first
    assert any(representatives(points, 12, seed=s) != first for s in range(4, 8))


@pytest.mark.parametrize("call", [lambda: ngram_vectors(WORDS), lambda: representatives(np.eye(4), 2, 0)])
def test_without_scikit_learn_the_remedy_is_named(call: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'promptopt-suite\[cluster\]'"):
        call()  # type: ignore[operator]


def test_what_needs_no_clusters_needs_no_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert representatives(np.eye(3), 3, 0) == (0, 1, 2)
