import math

import pytest

from mixwell.recommend.race import Rung, Standing, cut, finalists, race

RUNGS = [Rung(1, (0, 1), 4), Rung(2, (0, 1), 2), Rung(4, (0,), 1)]
LABELS = [f"m{i}" for i in range(8)]


def by_number(labels, rung):
    return {m: [(float(m[1:]) if m != "erm" else 3.5,) for _ in rung.seeds] for m in labels}


def test_each_rung_keeps_its_share_and_the_baseline_runs_along():
    asked = []

    def score(labels, rung):
        asked.append((list(labels), rung.epoch))
        return by_number(labels, rung)

    assert race(LABELS, RUNGS, "erm", score) == ["m7"]
    assert asked == [
        ([*LABELS, "erm"], 1), (["m7", "m6", "m5", "m4", "erm"], 2), (["m7", "m6", "erm"], 4)
    ]  # fmt: skip


def test_a_race_that_is_gone_on_with_ends_alike():
    kept = []
    race(LABELS, RUNGS, "erm", by_number, kept.append)
    for done, standings in enumerate(kept, start=1):
        known = [Standing.from_dict(standing.to_dict()) for standing in standings]
        assert known == standings
        assert race(finalists(known), RUNGS[done:], "erm", by_number) == ["m7"]


def test_later_rungs_may_be_changed():
    asked = []

    def score(labels, rung):
        asked.append(rung)
        return by_number(labels, rung)

    less = Rung(2, (0,), 1)
    told = iter([[less], None])
    assert race(LABELS, RUNGS, "erm", score, lambda standings: next(told)) == ["m7"]
    assert asked == [RUNGS[0], less]


def test_equals_are_told_apart_by_the_second_number_and_then_keep_their_order():
    scores = {"a": [(1.0, -0.5)], "b": [(1.0, -0.4)], "c": [(1.0, -0.5)], "erm": [(0.5, 0.0)]}
    standings = cut(scores, "erm", 2)
    assert finalists(standings) == ["b", "a"]
    assert [s.gap for s in standings] == [0.5, 0.5, 0.5, 0.0]
    assert standings[2].why == "place 3 of 3, of which 2 go on"


@pytest.mark.parametrize("broken", [None, [(math.nan,), (1.0,)]])
def test_a_candidate_whose_run_failed_is_out(broken):
    scores = {"a": [(1.0,), (2.0,)], "b": broken, "erm": [(0.0,), (0.0,)]}
    standings = cut(scores, "erm", 2)
    assert finalists(standings) == ["a"]
    failed = standings[1]
    assert (failed.label, failed.why, failed.place) == ("b", "a run of it failed", 2)
    assert math.isnan(Standing.from_dict(failed.to_dict()).score)


def test_a_race_without_a_finisher_ends():
    assert race(["a"], RUNGS, "erm", lambda labels, rung: dict.fromkeys(labels)) == []
