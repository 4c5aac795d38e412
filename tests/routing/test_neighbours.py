"""k nearest neighbours against brute force, and chosen where they predict better than ridge regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from ibpo.routing.fit import _blend, as_mix, fit_router, scores_of
from ibpo.routing.neighbours import NUM_NEIGHBOURS, leave_one_out, mean_of_nearest, unit_rows
from ibpo.routing.router import load_router, save_router
from tests.routing.test_router import table_of


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(7, 25), st.integers(2, 6), st.integers(1, 3))
def test_leaving_one_out_is_leaving_one_out(seed, size, width, targets):
    rng = np.random.default_rng(seed)
    unit, target = unit_rows(rng.normal(size=(size, width))), rng.normal(size=(size, targets))
    num, found = leave_one_out(unit, target)
    least = np.full(targets, np.inf)
    for k in [k for k in NUM_NEIGHBOURS if k < size]:
        residual = np.zeros((size, targets))
        for i in range(size):
            rest = np.arange(size) != i
            near = NearestNeighbors(n_neighbors=k, metric="cosine").fit(unit[rest])
            (places,) = near.kneighbors(unit[i : i + 1], return_distance=False)
            residual[i] = target[i] - target[rest][places].mean(axis=0)
            asked = mean_of_nearest(unit[rest], target[rest], np.full(targets, float(k)), 3 * unit[i : i + 1])
            assert asked[0] == pytest.approx(target[i] - residual[i], abs=1e-9)
        for t in np.flatnonzero(num == k):
            assert found[:, t] == pytest.approx(residual[:, t], abs=1e-9)
        least = np.minimum(least, (residual**2).mean(axis=0))
    assert (found**2).mean(axis=0) == pytest.approx(least)


def test_the_blend_has_the_least_error_of_all_weights():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 3))
    ridge, near = truth + rng.normal(size=(200, 3)), truth + [0.3, 1.0, 9.0] * rng.normal(size=(200, 3))
    weight, tried = _blend(ridge, near), np.linspace(0, 1, 1001)[:, None, None]
    best = ((tried * ridge + (1 - tried) * near) ** 2).mean(axis=1).argmin(axis=0) / 1000
    assert weight[:2] == pytest.approx(best[:2], abs=2e-3)
    assert weight[0] < 0.3 and best[2] > 0.9 and weight[2] == 1  # what is won there is not sure
    same = [_blend(ridge, ridge + 1e-3 * rng.normal(size=ridge.shape)).tolist() for _ in range(20)]
    assert np.mean(same) > 0.9  # nothing that is sure


def test_more_neighbours_than_there_are_problems_are_all_of_them():
    unit, target = unit_rows(np.eye(3)), np.arange(6.0).reshape(3, 2)
    found = mean_of_nearest(unit, target, np.array([1.0, 40.0]), np.array([[0.0, 2.0, 0.1]]))
    assert found.tolist() == [[2.0, 3.0]]
    assert mean_of_nearest(unit, target, np.array([1.0, 1.0]), np.zeros((0, 3))).shape == (0, 2)
    assert np.isfinite(mean_of_nearest(unit, target, np.array([1.0, 1.0]), np.zeros((1, 3)))).all()


def test_neighbours_are_taken_where_no_line_separates(tmp_path):
    table = table_of(tmp_path, num_problems=240, informative=False)
    gain = table.reward[:, 1] - table.reward[:, 0]
    # Eight places on a circle, gain and none in turn: a linear function of the embedding says nothing.
    rng, place = np.random.default_rng(0), np.zeros(len(gain), int)
    for wanted in (False, True):
        which = np.flatnonzero((gain > 0.4) == wanted)
        place[which] = 2 * rng.integers(4, size=len(which)) + wanted
    angle = place * np.pi / 4 + rng.normal(0, 0.05, len(gain))
    embedded = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    router = fit_router(table, embedded=embedded, embedding={"model": "circle"})
    assert router.source["neighbours"][0] > 0
    told = router.source["explained"]
    assert told["neighbours"][0] > 0.5 > told["ridge"][0]
    found = scores_of(router, table, embedded)
    assert np.corrcoef(found.gain[:, 1], gain)[0, 1] > 0.7
    save_router(router, tmp_path / "router.json")
    again = scores_of(load_router(tmp_path / "router.json"), table, embedded)
    assert np.array_equal(again.gain, found.gain) and np.array_equal(again.cost, found.cost)
    mix = scores_of(as_mix(router), table, embedded)
    assert mix.gain[:, 1] == pytest.approx([gain.mean()] * len(gain))
    line = fit_router(table, embedded=gain[:, None] + [[0.0, 1.0]], embedding={"model": "line"})
    assert line.source["neighbours"][0] == 0 or line.source["explained"]["ridge"][0] < 1
