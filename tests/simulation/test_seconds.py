"""Seconds by purpose."""

from tests.laws.synthetic import federation, rounds
from thinwire import clock
from thinwire.methods import create
from thinwire.simulation import rounds as loop


def test_wire_seconds_of_many_threads_leave_the_methods_own_positive(monkeypatch):
    send_all = loop.send_all

    def beside_many_threads(*given):
        clock._running.get()["wire"] = 100.0
        return send_all(*given)

    monkeypatch.setattr(loop, "send_all", beside_many_threads)
    state, _ = rounds(federation(create("fedit"), 2), 1)
    assert state.totals.seconds["wire"] >= 100.0
    assert 0 < state.totals.seconds["method"] < 100.0
