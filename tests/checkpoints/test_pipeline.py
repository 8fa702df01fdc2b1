"""Work in threads, results in order, bytes in flight bounded."""

import threading
import time

import pytest

import arraycodec as ac
from arraycodec.checkpoints.pipeline import Done, ordered, using


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_order(jobs):
    def work(k):
        time.sleep(0.001 * (k % 3))
        return k * k

    assert [*ordered(work, range(40), lambda k: 1, jobs, 10)] == [(k, k * k) for k in range(40)]


@pytest.mark.parametrize("budget", [1, 10, 35])
def test_items_in_flight_never_cost_more_than_the_budget(budget):
    lock, flying, most = threading.Lock(), [], 0

    def work(k):
        nonlocal most
        with lock:
            flying.append(k)
            most = max(most, sum(flying))
        time.sleep(0.001)
        return k

    costs = [3, 9, 1, 1, 30, 2, 10, 10, 1]
    for _, k in ordered(work, costs, lambda k: k, 4, budget):
        with lock:
            flying.remove(k)
    assert most <= max(budget, max(costs))


@pytest.mark.parametrize("jobs", [1, 3])
def test_an_error_comes_where_its_item_is(jobs):
    def work(k):
        if k == 4:
            raise KeyError(k)
        return k

    seen = []
    with pytest.raises(KeyError):
        for k, _ in ordered(work, range(10), lambda k: 1, jobs, 100):
            seen.append(k)
    assert seen == [0, 1, 2, 3]
    assert not [t for t in threading.enumerate() if t.name.startswith("arraycodec-checkpoint")]


def test_a_caller_that_stops_ends_the_threads():
    results = ordered(lambda k: k, range(100), lambda k: 1, 3, 100)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("arraycodec-checkpoint")]


def test_using_sets_the_threads_of_kernels_for_a_while():
    before = ac.get_num_threads()
    with using(3) as jobs:
        assert (jobs, ac.get_num_threads()) == (3, 3)
    assert ac.get_num_threads() == before
    with using(None) as jobs:
        assert jobs == before


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_bad_jobs(bad):
    with pytest.raises(ac.ArgumentError, match="jobs"), using(bad):
        pass


def test_done_never_says_more_than_all():
    seen = []
    done = Done(10, lambda *args: seen.append(args))
    done.add(6, "a")
    done.add(6, "b")
    assert seen == [(6, 10, "a"), (10, 10, "b")]
    Done(10, None).add(3, "quiet")
