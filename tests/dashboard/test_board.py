"""What the dashboard knows: what a browser is given, and that it stays small whatever the nodes say."""

import json
import re
from dataclasses import replace
from typing import Any

from swarm.dashboard.board import HISTORY_TICKS, Board
from swarm.dashboard.snapshot import CHANNELS_SHOWN, EVENTS_SHOWN, FINDINGS_SHOWN, QUEUES_SHOWN, snapshot
from swarm.dht.hash_range import HASH_MAX, HashRange
from swarm.monitor import NodeView, Reason
from tests.dashboard.dashboards import NOW_S, board_of, dht_views


def given(board: Board, run: str = "", after: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(board.answer(run, after))
    return answer


def times(answer: dict[str, Any]) -> list[float]:
    return [at_s - NOW_S for at_s, *_ in answer["history"]]


def test_before_the_first_look_there_is_nothing() -> None:
    answer = given(Board("here"))
    assert (answer["now"], answer["history"], answer["number"]) == (None, [], 0)


def test_who_comes_late_is_given_all_that_is_remembered() -> None:
    assert times(given(board_of(dht_views(2), looks=5))) == [0, 1, 2, 3, 4]


def test_who_was_away_is_given_what_is_new_since_then() -> None:
    board = board_of(dht_views(2), looks=5)
    assert times(given(board, board.run, 3)) == [3, 4]
    assert times(given(board, board.run, 5)) == []


def test_numbers_of_another_process_count_for_nothing() -> None:
    board = board_of(dht_views(2), looks=5)
    assert times(given(board, "another", 3)) == [0, 1, 2, 3, 4]
    assert Board("here").run != board.run


def test_a_number_that_is_yet_to_come_gives_no_history() -> None:
    board = board_of(dht_views(2), looks=5)
    assert times(given(board, board.run, 10**15 - 1)) == []


def test_the_history_has_a_bound() -> None:
    board = board_of(dht_views(1), looks=HISTORY_TICKS + 7)
    assert times(given(board)) == list(range(7, HISTORY_TICKS + 7))
    assert times(given(board, board.run, 2)) == list(range(7, HISTORY_TICKS + 7))


def test_a_sample_is_requests_per_second_and_two_latencies_in_milliseconds() -> None:
    [view] = dht_views(1)
    views = [
        replace(view, requests_per_s=1234.5678, latency_s=(0.0000451, 0.00612)),
        replace(view, requests_per_s=None),
    ]
    assert given(board_of(views, looks=1))["history"] == [[NOW_S, [1235.0, 0.0451, 6.12], [None, None, None]]]


# The ring.


def ring_of(*ranges: HashRange, down: int | None = None) -> dict[str, Any]:
    views = [NodeView("dht", f"host:{number}", "up", hash_range=each) for number, each in enumerate(ranges)]
    if down is not None:
        views[down] = views[down].down(Reason.REFUSED, "Connection refused")
    ring: dict[str, Any] = snapshot(views)["ring"]
    return ring


HALF = 2**63


def test_a_ring_without_gap_or_overlap() -> None:
    ring = ring_of(HashRange(HALF, HASH_MAX), HashRange(0, HALF - 1))
    assert [(each["node"], each["from"], each["to"]) for each in ring["arcs"]] == [(1, 0.0, 0.5), (0, 0.5, 1.0)]
    assert (ring["problems"], ring["covered"], ring["served"]) == ([], 1.0, 1.0)


def test_gaps_and_overlaps_are_told_with_their_share() -> None:
    quarter = HALF // 2
    ring = ring_of(HashRange(0, HALF - 1), HashRange(quarter, HALF + quarter - 1))
    overlap, gap = ring["problems"]
    assert (overlap["kind"], overlap["nodes"], overlap["share"]) == ("overlap", [0, 1], 0.25)
    assert (gap["kind"], gap["nodes"], gap["from"], gap["to"]) == ("gap", [], 0.75, 1.0)
    assert ring["covered"] == 0.75


def test_what_is_on_a_node_that_is_down_is_covered_and_not_served() -> None:
    ring = ring_of(HashRange(0, HALF - 1), HashRange(HALF, HASH_MAX), down=1)
    assert (ring["problems"], ring["covered"], ring["served"]) == ([], 1.0, 0.5)


def test_a_dht_node_that_never_answered_is_counted() -> None:
    ring = snapshot([NodeView("dht", "host:1"), NodeView("queue", "host:2")])["ring"]
    assert (ring["arcs"], ring["unknown"], ring["covered"]) == ([], 1, 0.0)


def test_without_dht_nodes_nothing_is_missing_in_the_ring() -> None:
    assert snapshot([NodeView("queue", "host:1")])["ring"]["problems"] == []
    assert snapshot([])["ring"]["problems"] == []


# Bounds.


def test_of_many_channels_the_largest_are_shown_and_the_others_counted() -> None:
    channel = {f"channel-{number}": {"records": 1, "bytes": number} for number in range(4096)}
    shown = snapshot([replace(view, channel=channel) for view in dht_views(2)])["channels"]
    assert [each["name"] for each in shown["largest"]] == [f"channel-{4095 - each}" for each in range(CHANNELS_SHOWN)]
    assert shown["largest"][0] == {"kind": "dht", "name": "channel-4095", "records": 2, "bytes": 8190, "nodes": 2}
    assert shown["others"] == 4096 - CHANNELS_SHOWN
    assert shown["others_bytes"] == 2 * sum(range(4096 - CHANNELS_SHOWN))


def test_channels_of_two_kinds_are_two() -> None:
    channel = {"same": {"records": 1, "bytes": 1}}
    views = [NodeView(kind, f"host:{kind}", "up", channel=channel) for kind in ("dht", "queue")]
    assert len(snapshot(views)["channels"]["largest"]) == 2


def test_of_many_queues_the_fullest_are_shown_and_the_others_counted() -> None:
    subscribers = {f"s{number}": {"records": 1, "fullness": float(number)} for number in range(64)}
    channel = {f"channel-{number}": {"records": 1, "bytes": 1, "subscriber": subscribers} for number in range(10)}
    queues = snapshot([NodeView("queue", "host:1", "up", channel=channel | {"own": {"fullness": 99.9}})])["queues"]
    assert [each["percent"] for each in queues["fullest"][:2]] == [99.9, 63.0]
    assert queues["fullest"][1]["name"].endswith("/s63")
    assert (len(queues["fullest"]), queues["others"]) == (QUEUES_SHOWN, 641 - QUEUES_SHOWN)


def test_the_newest_events_of_all_nodes_are_shown() -> None:
    views = [
        replace(view, events=tuple((100.0 * at + number, "ERROR", "text") for at in range(50)))
        for number, view in enumerate(dht_views(3))
    ]
    events = snapshot(views)["events"]
    assert [each["at_s"] for each in events[:4]] == [4902.0, 4901.0, 4900.0, 4802.0]
    assert events[0] == {"at_s": 4902.0, "level": "ERROR", "text": "text", "node": 2}
    assert len(events) == EVENTS_SHOWN


def test_findings_beyond_the_bound_are_counted() -> None:
    views = [replace(view, findings=tuple(("rule", str(each)) for each in range(64))) for view in dht_views(2)]
    findings = snapshot(views)["findings"]
    assert (len(findings["first"]), findings["others"]) == (FINDINGS_SHOWN, 128 - FINDINGS_SHOWN)


def test_what_is_sent_each_second_is_small() -> None:
    channel = {f"channel-{number:0>120}": {"records": 10**9, "bytes": 10**12} for number in range(4096)}
    board = board_of([replace(view, channel=channel) for view in dht_views(12)], looks=2)
    assert len(board.answer(board.run, 1)) < 32 * 1024


def test_what_is_sent_is_json_as_browsers_read_it() -> None:
    board = board_of([replace(view, dump_age_s=1e15, lag_s=2.0**64) for view in dht_views(1)])
    assert not re.search(rb"NaN|Infinity", board.answer("", 0))
