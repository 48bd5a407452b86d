"""The page in a real browser: what people see of a swarm, while it works, breaks and recovers."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from swarm.blocking import DhtClient
from swarm.dht.hash_range import HASH_MAX, HashRange
from swarm.monitor import NodeView, Reason
from swarm.testing import DhtProcess
from tests.dashboard.browser import DESKTOP, PHONE, Browser, needs_chromium, running_browser
from tests.dashboard.dashboards import NOW_S, board_of, dht_views, running_dashboard, serving
from tests.waiting import wait_until

pytestmark = needs_chromium

MARKUP = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\"> &amp;"


@pytest.fixture(scope="module")
def one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser) -> Browser:
    """As large as a desktop's, light, and with nothing from the test before."""
    one_browser.open("about:blank")
    one_browser.resize(*DESKTOP)
    one_browser.prefer("light")
    one_browser.complaints()
    one_browser.requested()
    return one_browser


def show(browser: Browser, url: str) -> None:
    """Opens the page, until it has drawn the swarm."""
    browser.open(url)
    browser.wait_for("return document.querySelector('#nodes tbody tr, #nodes + .nothing')")


def number(text: str) -> float:
    """Of a figure as the page shows it."""
    digits, unit = re.fullmatch(r"([\d,.]+) ?(\w*)", text.strip()).groups()  # type: ignore[union-attr]
    return float(digits.replace(",", "")) * {"": 1, "k": 1e3, "M": 1e6}[unit]


def tile(browser: Browser, title: str) -> str:
    return browser.text(f'#tiles [data-key="{title}"] dd')


def cell(browser: Browser, table: str, row: int, title: str) -> str:
    return browser.text(f'#{table} tbody tr:nth-child({row}) [data-title="{title}"] .text')


def drawn_colours(browser: Browser, chart: str) -> int:
    """How many colours a chart has that are no shade of grey: the lines of nodes."""
    script = """
      const canvas = document.querySelector(`#${arguments[0]} canvas`);
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let found = 0;
      for (let at = 0; at < pixels.length; at += 4) {
        const [red, green, blue, opaque] = pixels.slice(at, at + 4);
        if (opaque > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) found += 1;
      }
      return found;
    """
    found: int = browser.run(script, chart)
    return found


# Live, with real nodes.


def test_figures_change_while_nodes_work_and_nothing_is_asked_of_others(browser: Browser, tmp_path: Path) -> None:
    with (
        DhtProcess(tmp_path / "node") as node,
        running_dashboard(tmp_path, f"--dht={node.address}") as dashboard,
        DhtClient([node.address]) as dht,
    ):
        show(browser, dashboard.url)
        assert tile(browser, "Nodes up") == "1 of 1"
        assert tile(browser, "Records") == "0"
        for step in range(1, 4):
            dht.put_many("words", {f"{step} {each}": b"value" for each in range(1000)})
            wait_until(lambda step=step: number(tile(browser, "Records")) == 1000 * step)  # type: ignore[misc]
        assert cell(browser, "channels", 1, "Channel") == "words"

        def busy() -> bool:
            for each in range(100):
                dht.get("words", f"1 {each}")
            return tile(browser, "Requests/s") not in ("0", "–") and tile(browser, "99 % within") != "–"

        wait_until(busy)
        wait_until(lambda: drawn_colours(browser, "rates") > 20)
        assert browser.text("#state") == "all well"
        assert browser.text("#connection").startswith("live ")
        assert browser.run("return document.title") == "swarm"
    own = {each for each in browser.requested() if not each.startswith(("about:", "chrome"))}
    assert {each for each in own if not each.startswith(dashboard.url)} == set()
    assert f"{dashboard.url}main.js" in own


def test_a_node_that_dies_is_shown_at_once_and_so_is_its_return(browser: Browser, tmp_path: Path) -> None:
    with (
        DhtProcess(tmp_path / "node") as node,
        running_dashboard(tmp_path, f"--dht={node.address}") as dashboard,
    ):
        show(browser, dashboard.url)
        browser.wait_for_text("#state", "^all well$")
        browser.complaints()
        node.kill()
        browser.wait_for_text("#state", "^1 node down$")
        assert cell(browser, "nodes", 1, "State") == "down"
        assert tile(browser, "Nodes up") == "0 of 1"
        assert cell(browser, "nodes", 1, "Errors") == tile(browser, "Errors") == "–", "they are not known"
        assert browser.text("#findings") == f"dht {node.address}: down: Connection refused"
        assert browser.text("#ring .middle") == "0 %"
        assert "100 % are on nodes that are down" in browser.text("#ring-text")
        assert browser.run("return document.title") == "1 node down – swarm"
        node.start()
        browser.wait_for_text("#state", "^all well$")
        assert cell(browser, "nodes", 1, "State") == "up"
        assert browser.text("#ring .middle") == "100 %"
        assert browser.complaints() == []


def test_a_dashboard_that_is_gone_is_told_and_found_again(browser: Browser, tmp_path: Path) -> None:
    with DhtProcess(tmp_path / "node") as node:
        with running_dashboard(tmp_path, f"--dht={node.address}") as dashboard:
            show(browser, dashboard.url)
            browser.wait_for_text("#connection", "^live ")
        browser.wait_for_text("#connection", "^connection lost .* ago$")
        assert cell(browser, "nodes", 1, "State") == "up", "what was known is still shown"
        with running_dashboard(tmp_path, f"--dht={node.address}", port=dashboard.port):
            browser.wait_for_text("#connection", "^live ")
            browser.wait_for("return !document.body.classList.contains('lost')")


# What it looks like, of swarms as they may be.


def healthy() -> list[NodeView]:
    queue = {"mail": {"records": 9, "bytes": 90, "fullness": 97.0, "consumers": 0, "unacknowledged": 3}}
    return [
        *dht_views(3),
        NodeView("queue", "127.0.0.1:10101", "up", channel=queue, fullest=(("mail", 97.0),)),
        NodeView("logfiles", "127.0.0.1:10201", "up"),
    ]


def test_what_nodes_say_is_shown_as_text(browser: Browser) -> None:
    views = [
        replace(view, events=((NOW_S, "ERROR", MARKUP),), findings=((MARKUP, MARKUP),), version=MARKUP)
        for view in dht_views(2)
    ]
    views.append(NodeView("queue", MARKUP, channel={MARKUP: {"fullness": 1.0}}).down(Reason.OTHER, MARKUP))
    with serving(board_of(views)) as url:
        show(browser, url)
        assert cell(browser, "events", 1, "What happened") == MARKUP
        assert cell(browser, "channels", 1, "Channel") == MARKUP
        assert cell(browser, "queues", 1, "Queue") == MARKUP
        assert MARKUP in browser.text("#findings")
        assert cell(browser, "nodes", 3, "Node") == f"queue {MARKUP}"
        assert browser.run("return document.querySelectorAll('main script, main img').length") == 0
        assert browser.run("return document.title") == "1 node down – swarm"
        assert browser.complaints() == []


def test_what_cannot_be_drawn_is_told_and_the_page_goes_on(browser: Browser) -> None:
    views = dht_views(1)
    board = board_of([replace(view, events=((1e18, "ERROR", "no such time"),)) for view in views])
    with serving(board) as url:
        browser.open(url)
        browser.wait_for_text("#connection", "^cannot be drawn: .*Invalid time value")
        assert browser.run("return document.body.classList.contains('lost')")
        board.take(views, NOW_S + 3)
        browser.wait_for_text("#connection", "^live ")
        assert cell(browser, "nodes", 1, "State") == "up"
        assert not browser.run("return document.body.classList.contains('lost')")


def test_gaps_and_overlaps_are_drawn_and_named(browser: Browser) -> None:
    ranges = [HashRange(0, HASH_MAX // 2), HashRange(HASH_MAX // 4, HASH_MAX // 4 * 3)]
    views = [replace(view, hash_range=each) for view, each in zip(dht_views(2), ranges, strict=True)]
    with serving(board_of(views)) as url:
        show(browser, url)
        assert browser.run("return document.querySelectorAll('#ring .problem').length") == 2
        assert browser.text("#ring .middle") == "75 %"
        assert browser.text("#ring-text") == "1 gap and 1 overlap between 2 nodes: 75 % of all hashes are covered."
        table = browser.text("#ring-table")
        assert "overlap of 1 and 2" in table
        assert "gap" in table
        assert browser.text("#state") == "2 findings"
        assert "gap in the hash ring: no node is responsible for 25 %" in browser.text("#findings")


def test_a_full_queue_stands_out(browser: Browser) -> None:
    with serving(board_of(healthy())) as url:
        show(browser, url)
        assert cell(browser, "queues", 1, "Full") == "97 %"
        assert browser.run("return document.querySelector('#queues .bar').dataset.level") == "full"
        assert browser.run("return document.querySelector('#queues [data-title=Full] .text').dataset.state") == "bad"


def test_a_finding_has_the_name_of_its_rule(browser: Browser) -> None:
    (view,) = dht_views(1)
    with serving(board_of([replace(view, findings=(("loop_lags", "spread the load"),))])) as url:
        show(browser, url)
        assert browser.text("#findings") == f"dht {view.address}, loop_lags: spread the load"


def test_a_swarm_without_nodes_is_said_to_have_none(browser: Browser) -> None:
    with serving(board_of([])) as url:
        show(browser, url)
        assert browser.text("#state") == "no nodes"
        assert "No nodes are watched" in browser.text("#findings")
        assert browser.complaints() == []


@pytest.mark.parametrize("size", [PHONE, (320, 640), (768, 1024), DESKTOP], ids=["phone", "small", "tablet", "desktop"])
def test_nothing_has_to_be_scrolled_sideways(size: tuple[int, int], browser: Browser) -> None:
    long = {
        "x" * 128: {"records": 10**15, "bytes": 10**18, "fullness": 100.0, "subscriber": {"y" * 128: {"fullness": 1}}}
    }
    views = [replace(view, address=f"{'host-name.' * 20}example:10001", channel=long) for view in dht_views(1)]
    views += [
        replace(view, events=((NOW_S, "WARNING", "w" * 300),), findings=(("rule", "t" * 300),)) for view in healthy()
    ]
    with serving(board_of(views)) as url:
        browser.resize(*size)
        show(browser, url)
        browser.run("document.querySelector('details').open = true")
        browser.wait_for("return document.querySelector('#charts-table tbody tr')")
        past = (
            "[...document.querySelectorAll('main *')].filter((each) => each.getBoundingClientRect().right > innerWidth)"
        )
        assert browser.run(f"return {past}.map((each) => each.outerHTML.slice(0, 90))") == []
        assert browser.run("return document.documentElement.scrollWidth") == size[0]
        wide = "[...document.querySelectorAll('.card')].filter((each) => each.scrollWidth > each.clientWidth)"
        assert browser.run(f"return {wide}.map((each) => each.id)") == []


def test_who_prefers_dark_pages_gets_one(browser: Browser) -> None:
    ground = "return getComputedStyle(document.body.parentElement).backgroundColor"
    with serving(board_of(healthy())) as url:
        show(browser, url)
        assert browser.run(ground) == "rgb(243, 245, 248)"
        browser.prefer("dark")
        assert browser.run(ground) == "rgb(14, 19, 25)"
        line = "return getComputedStyle(document.querySelector('.arc')).color"
        assert browser.run(line) == "rgb(90, 169, 238)"


def test_the_page_can_be_used_with_the_keyboard_and_read_aloud(browser: Browser) -> None:
    with serving(board_of(healthy())) as url:
        show(browser, url)
        unnamed = """
          return [...document.querySelectorAll("button, svg, [role=img], [role=region], [role=group], section")]
            .filter((each) => each.closest(".uplot, .chart .u-wrap") === null && each.getClientRects().length)
            .filter((each) => !each.getAttribute("aria-label") && !each.getAttribute("aria-labelledby"))
            .filter((each) => !each.textContent.trim())
            .map((each) => each.outerHTML.slice(0, 80));
        """
        assert browser.run(unnamed) == []
        missing = """
          return [...document.querySelectorAll("[aria-labelledby]")]
            .flatMap((each) => each.getAttribute("aria-labelledby").split(" "))
            .filter((id) => !document.getElementById(id));
        """
        assert browser.run(missing) == []
        levels = browser.run("return [...document.querySelectorAll('h1, h2, h3')].map((each) => +each.tagName[1])")
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert browser.run("return document.documentElement.lang") == "en"
        browser.run("document.querySelector('#legend button').focus(); document.activeElement.click()")
        assert browser.run("return document.querySelector('#legend button').getAttribute('aria-pressed')") == "false"
        browser.run("document.querySelector('#spans button').click()")
        assert browser.run(
            "return [...document.querySelectorAll('#spans button')].map((each) => each.ariaPressed)"
        ) == [
            "true",
            "false",
            "false",
        ]


def test_the_charts_are_there_as_a_table(browser: Browser) -> None:
    with serving(board_of(dht_views(12))) as url:
        show(browser, url)
        browser.run("document.querySelector('#charts-details summary').click()")
        browser.wait_for("return document.querySelectorAll('#charts-table tbody tr').length === 12")
        assert cell(browser, "charts-table", 12, "Requests/s now") == "1,100"


def test_who_selects_a_text_keeps_it(browser: Browser) -> None:
    with serving(board_of(healthy())) as url:
        show(browser, url)
        script = """
          window.row = document.querySelector("#nodes tbody tr");
          window.text = row.querySelector(".text").firstChild;
        """
        browser.run(script)
        browser.requested()
        wait_until(lambda: sum("data.json" in each for each in browser.requested()) >= 1)
        kept = (
            "return row === document.querySelector('#nodes tbody tr') && text === row.querySelector('.text').firstChild"
        )
        assert browser.run(kept)
