import gc

import pytest
import torch

from mixwell.bench.timing import Contender, Timing, measure, ratios, spread, stopwatch


class Clock:
    """A watch on which each contender takes the time it says, slowed from call to call."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def contender(self, name, seconds, **fields):
        def run():
            self.now += seconds
            self.log.append(name)
            assert not gc.isenabled()

        return Contender(name, run, **fields)

    def watch(self, run, calls):
        begin = self.now
        for _ in range(calls):
            run()
        return self.now - begin


def rounds(clock, names, repeats):
    """Return the order of each repeat: of one call a sample, the last calls."""
    last = clock.log[-len(names) * repeats :]
    return [tuple(last[i : i + len(names)]) for i in range(0, len(last), len(names))]


def test_every_repeat_goes_once_through_all_in_changing_order():
    clock = Clock()
    contenders = [clock.contender(name, 0.01) for name in "abc"]
    found = measure(contenders, 20, watch=clock.watch)
    orders = rounds(clock, "abc", 20)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 2
    assert [len(found[name].seconds) for name in "abc"] == [20, 20, 20]
    assert found["a"].calls == 1


def test_a_slow_spell_leaves_the_ratio_as_it_is():
    clock = Clock()
    speeds = {"floor": 0.01, "twice": 0.02}
    spell = {"count": 0}

    def watch(run, calls):
        # The second half of the samples is taken on a machine that is five times slower.
        spell["count"] += 1
        return clock.watch(run, calls) * (5 if spell["count"] > 12 else 1)

    contenders = [clock.contender(name, seconds) for name, seconds in speeds.items()]
    found = measure(contenders, 10, watch=watch)
    assert max(found["floor"].seconds) == pytest.approx(5 * min(found["floor"].seconds))
    low, middle, high = spread(ratios(found["twice"], found["floor"]))
    assert (low, middle, high) == pytest.approx((2, 2, 2))


@pytest.mark.cases(quick=1)
@pytest.mark.parametrize(("seconds", "fewest", "most"), [
    (1e-6, 5000, 7000), (1e-4, 50, 70), (0.003, 2, 2), (0.006, 1, 1), (1.0, 1, 1),
    (0.0, 10**6, 10**6),
])  # fmt: skip
def test_short_calls_are_repeated_until_a_sample_lasts(seconds, fewest, most):
    clock = Clock()
    clock.log = type("Forgetful", (), {"append": lambda self, name: None})()
    found = measure([clock.contender("a", seconds)], 1, watch=clock.watch, least=0.005)["a"]
    assert fewest <= found.calls <= most
    assert found.seconds[0] == pytest.approx(seconds)


def test_what_fails_or_is_absent_is_said_and_stops_no_other():
    clock = Clock()

    def broken():
        raise RuntimeError("no such kernel\nand much more")

    found = measure(
        [
            Contender("absent", absent="not installed"),
            Contender("broken", broken),
            clock.contender("there", 0.01),
        ],
        3,
        watch=clock.watch,
    )
    assert found["absent"] == Timing(failure="not installed")
    assert found["broken"].failure == "RuntimeError: no such kernel"
    assert len(found["there"].seconds) == 3
    assert gc.isenabled()
    with pytest.raises(ValueError, match="same name"):
        measure([clock.contender("a", 1), clock.contender("a", 1)], 1, watch=clock.watch)


def test_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (2, 3, 4)
    assert spread([7.0]) == (7, 7, 7)


def test_the_stopwatch_of_a_processor_is_a_clock():
    calls = []
    assert stopwatch(torch.device("cpu"))(lambda: calls.append(1), 3) >= 0
    assert len(calls) == 3
