"""Makes the screenshots of the dashboard in docs/images, of a real swarm with real load: `make screenshots`.

Three dht nodes, two queue nodes and a logfiles node run for WORKED_S under programs that look words up, count them,
send mail through a queue and write log lines; the load rises and falls, so that the charts have something to show.
"""

import math
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from swarm.blocking import DhtClient, LogfilesClient, QueueClient
from swarm.core.errors import SwarmError
from tests.cli.commands import SWARM
from tests.dashboard.browser import DESKTOP, PHONE, running_browser
from tests.dashboard.dashboards import running_dashboard
from tests.waiting import wait_until

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WORKED_S = 150.0
DUMP_S = 60.0  # after which the dumps begin
WAVE_S = 70.0
STEP_S = 0.05
PICTURES = (
    ("desktop", DESKTOP, "light", None),
    ("dark", DESKTOP, "dark", None),
    ("phone", PHONE, "light", "#load"),
)
"""Name, size, scheme, and the last element that is shown: the whole page is too long on a phone to be looked at."""
MARGIN = 12  # below that element, as beside it


def work(step: Callable[[float], None], phase: float, stop: threading.Event) -> None:
    """Calls the step again and again, with how much is to be done, from 0 to 1."""
    begun = time.monotonic()
    while not stop.wait(STEP_S):
        wave = 0.55 + 0.4 * math.sin(2 * math.pi * ((time.monotonic() - begun) / WAVE_S + phase))
        try:
            step(wave * random.uniform(0.85, 1.15))
        except SwarmError:
            stop.wait(1)


def load(data: Path, opened: ExitStack, stop: threading.Event) -> list[threading.Thread]:
    dht = opened.enter_context(DhtClient(nodes_file=data / "nodes"))
    queue = opened.enter_context(QueueClient(nodes_file=data / "nodes-queue"))
    mail = opened.enter_context(QueueClient(nodes_file=data / "nodes-queue"))
    logfiles = opened.enter_context(LogfilesClient(nodes_file=data / "nodes-logfiles"))
    words = [f"word-{number}" for number in range(20_000)]
    dht.put_many("words", {word: b"1" * random.randint(10, 200) for word in words})
    dht.put_many("sessions", {f"session-{number}": bytes(1500) for number in range(4000)})

    def look_up(much: float) -> None:
        for word in random.sample(words, int(60 * much)):
            dht.get("words", word)
        dht.put_many("sessions", {f"session-{random.randrange(9000)}": bytes(1500) for _ in range(int(8 * much))})

    def send(much: float) -> None:
        for _ in range(int(12 * much)):
            queue.push("mail", b"to: somebody" * 40)
        queue.push_many("thumbnails", [bytes(4000)] * int(40 * much))

    def deliver(much: float) -> None:
        mail.pop_many("mail", int(14 * much))
        mail.pop_many("thumbnails", int(28 * much))

    def write(much: float) -> None:
        now_ns = time.time_ns()
        for channel, lines in (("web", 60), ("auth", 6), ("cron", 2)):
            logfiles.put_many(
                channel, [(now_ns + each, b"GET / HTTP/1.1 200" * 6) for each in range(int(lines * much) + 1)]
            )

    steps = [look_up, send, deliver, write]
    threads = [threading.Thread(target=work, args=[step, number / 5, stop]) for number, step in enumerate(steps)]
    for thread in threads:
        thread.start()
    return threads


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="swarm-screenshots-") as name, ExitStack() as opened:
        directory = Path(name)
        data, output = directory / "data", directory / "output"
        options = ["--data", str(data), "--dht", "3", "--queue", "2", "--memory-limit", "96 MiB"]
        with output.open("wb") as file:
            up = opened.enter_context(subprocess.Popen([*SWARM, "up", *options], stdout=file, stderr=file))
        opened.callback(up.terminate)
        wait_until(lambda: up.poll() is not None or "swarm is up" in output.read_text())
        assert up.poll() is None, output.read_text()
        dashboard = opened.enter_context(running_dashboard(directory, "--data", str(data)))
        stop = threading.Event()
        threads = load(data, opened, stop)
        try:
            stop.wait(DUMP_S)
            for pid in re.findall(r"dump-\d dumps .* \(pid (\d+)\)", output.read_text()):
                os.kill(int(pid), signal.SIGUSR1)
            stop.wait(WORKED_S - DUMP_S)
            IMAGES.mkdir(exist_ok=True)
            with running_browser(directory) as browser:
                for picture, size, scheme, last in PICTURES:
                    browser.resize(*size)
                    browser.prefer(scheme)
                    browser.open(dashboard.url)
                    browser.wait_for("return document.querySelectorAll('#nodes tbody tr').length === 6")
                    if last:
                        script = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
                        browser.resize(size[0], math.ceil(browser.run(script, last)) + MARGIN)
                    browser.screenshot(IMAGES / f"dashboard-{picture}.png", whole_page=last is None)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


if __name__ == "__main__":
    main()
