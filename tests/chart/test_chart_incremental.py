"""Incremental upgrades of mode rayservice: no traffic before the new cluster's application runs."""

from __future__ import annotations

import pytest
from kuberay_incremental import Part, Upgrade


def turns(upgrade: Upgrade, number: int, ready_from: int) -> list[tuple[int, int]]:
    """The route's weights in each turn of 2 s; the pending application runs from this turn on."""
    weights = []
    for turn in range(number):
        for part, is_active in ((upgrade.pending, False), (upgrade.active, True)):
            capacity = upgrade.new_capacity(is_active)
            part.capacity = part.capacity if capacity is None else capacity
        weights.append(upgrade.weights(turn >= ready_from, turn * 2.0))
        upgrade.note_traffic(weights[-1], turn * 2.0)
        if upgrade.is_complete():
            break
    return weights


@pytest.mark.parametrize("surge", [20, 100])
def test_traffic_moves_in_steps_once_the_application_runs(surge: int) -> None:
    upgrade = Upgrade(step=20, interval_s=4, surge=surge, active=Part(100, 100, 0.0), pending=Part(0))
    weights = turns(upgrade, 200, ready_from=10)
    assert set(weights[:10]) == {(100, 0)}
    assert sorted(set(weights)) == [(100 - part, part) for part in range(100, -1, -20)]
    assert upgrade.is_complete()


def test_a_cluster_whose_application_never_runs_gets_no_traffic_and_is_given_up() -> None:
    upgrade = Upgrade(active=Part(100, 100, 0.0), pending=Part(0))
    assert set(turns(upgrade, 200, ready_from=1000)) == {(100, 0)}
    assert not upgrade.is_complete()
    upgrade.rollback = True  # the goal is the active cluster's spec again
    assert set(turns(upgrade, 2, ready_from=1000)) == {(100, 0)}
    assert upgrade.is_rolled_back(head_ready=True)
