"""The page in a real browser: loading, keys, futures, latents, budgets, reconnecting."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from test_server import started

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    """Playwright's own Chromium, or the system's."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started_one:
        own = started_one.chromium.executable_path
        system = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
        path = own if os.path.exists(own) else next(filter(None, system), None)
        if path is None:
            pytest.skip("no Chromium here: apt-get install chromium, or playwright install chromium")
        browser = started_one.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Where the server writes what is saved."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def address(fork, probed_run, worded_run, agent_folder, dataset, kept) -> str:
    """A server that plays a tiny run with text twice, as two budgets; the first one was probed, and has an agent."""
    more = ("--from", dataset, "--port", "0", "--out", kept, "--agent", agent_folder, "--futures", "4")
    return started(fork("play", probed_run, worded_run, *more))


class Page:
    """A page that plays, and what its console said."""

    def __init__(self, browser, address: str, size: str = "laptop", **more) -> None:
        width, height = SIZES[size]
        self.context = browser.new_context(viewport={"width": width, "height": height}, **more)
        self.page, self.said = self.context.new_page(), []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address)
        self.until("state.steps > 1")

    def see(self, expression: str):
        """The value of a JavaScript expression, the page's own measurements within reach."""
        return self.page.evaluate(
            f"(() => {{ const {{ state, latencies }} = window.videowm ?? {{ state: {{}}, latencies: {{}} }}; "
            f"return {expression}; }})()"
        )

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.see(expression):
            assert time.monotonic() < end, (expression, self.see("state"), self.said)
            time.sleep(0.03)

    def pixels(self, view: int = 0) -> str:
        """What a view shows."""
        return self.see(f"document.querySelectorAll('#views canvas')[{view}].toDataURL()")

    def one_step(self, *keys: str) -> str:
        """Restart, then take one step with some keys held; the dream's pixels after it."""
        self.page.click("#restart")
        self.until("state.at === 0")
        for key in keys:
            self.page.keyboard.down(key)
        self.page.click("#single")
        self.until("state.at === 4 && document.querySelectorAll('#ticks .on').length === 4")
        for key in keys:
            self.page.keyboard.up(key)
        return self.pixels()


@pytest.fixture(scope="module")
def opened(browser, address):
    """One page for the tests that leave it as it was."""
    page = Page(browser, address)
    yield page
    page.context.close()


@pytest.mark.parametrize("size", SIZES)
def test_it_loads(browser, address, size):
    """Guards errors in the console, missing views, JPEG that is not shown, and a page wider than its window."""
    more = {"laptop": "", "phone": "?format=jpeg"}[size]
    page = Page(browser, address + more, size, has_touch=size == "phone")
    assert page.see("state.views") == ["dream", "dream", "real"] and page.said == []
    assert page.see("document.querySelectorAll('#views canvas').length") == 4
    assert page.see("document.documentElement.scrollWidth <= innerWidth")
    assert [b.get_attribute("data-action") for b in page.page.query_selector_all("#keys button")] == [
        "gas", "brake", "left", "right"
    ]  # fmt: skip
    page.until("state.fps > 3")
    assert (
        len(
            set(
                page.see(
                    "[...document.querySelector('#views canvas').getContext('2d').getImageData(0, 0, 64, 64).data]"
                )
            )
        )
        > 9
    )
    if size == "phone":
        page.page.locator("#keys [data-action=left]").dispatch_event("pointerdown", {"pointerId": 1, "button": 0})
        page.until("state.actions[0] === 'left'")
        page.page.locator("#keys [data-action=left]").dispatch_event("pointerup", {"pointerId": 1})
        page.until("state.actions[0] === 'coast'")
    assert page.said == []
    page.context.close()


def test_keys_change_frames(opened):
    """Guards keys that never reach the model: one step with a key differs from one without, which can be repeated."""
    opened.page.click("#pause")
    still, left = opened.one_step(), opened.one_step("ArrowLeft")
    assert opened.see("state.actions") == ["left"] * 4 and left != still
    assert opened.one_step("KeyW", "KeyA") != left and opened.see("state.actions") == ["gas_left"] * 4
    assert opened.one_step() == still
    opened.page.click("#pause")


def test_a_gamepad_presses_keys(opened):
    """Guards a stick or a button that the page does not read, and one that stays pressed when it is let go."""
    opened.page.evaluate(
        """window.pad = { axes: [-0.9, 0], buttons: Array.from({ length: 16 }, () => ({ pressed: false })) };
        navigator.getGamepads = () => [null, window.pad]"""
    )
    opened.until("state.actions[0] === 'left'")
    opened.page.evaluate("window.pad.buttons[7].pressed = true")
    opened.until("state.actions[0] === 'gas_left'")
    opened.page.evaluate("Object.assign(window.pad, { axes: [0, 0] }); window.pad.buttons[7].pressed = false")
    opened.until("state.actions[0] === 'coast'")
    opened.page.evaluate("navigator.getGamepads = () => []")


def test_the_latency_is_measured(opened):
    """Guards a number that is none: a key's time is its wait for the step and the rest, and both are seen."""
    opened.see("window.videowm.forget()")
    for _ in range(3):
        count = opened.see("latencies.totals.length")
        opened.page.keyboard.press("ArrowUp", delay=60)
        opened.until(f"latencies.totals.length > {count}")
    parts = opened.see("latencies.totals.map((t, i) => [t, latencies.waits[i] + latencies.rests[i]])")
    assert all(abs(total - both) < 1 and total > 0 for total, both in parts)
    assert min(opened.see("latencies.waits")) >= 0 and min(opened.see("latencies.rests")) > 0
    opened.until("document.getElementById('key95').textContent !== '-'")


def test_futures(opened):
    """Guards branches that cannot be picked, by mouse or by number."""
    opened.page.keyboard.press("b")
    opened.until("state.futures && state.views.length === 4 && state.steps > 3")
    opened.page.locator("#views figure").nth(2).click()
    opened.until("!state.futures && state.views.join() === 'dream,dream,real'")
    opened.page.keyboard.press("n")
    opened.until("state.futures && state.views.length === 9")
    opened.page.keyboard.press("4")
    opened.until("!state.futures && state.views.length === 3")
    assert opened.see("state.errors") == [] and opened.said == []


def test_latents(opened):
    """Guards sliders that show nothing: a moved one adds a picture, and puts two futures side by side."""
    opened.page.click("#explorer summary")
    opened.until("state.sliders === 9 && state.probed === 1")
    opened.until("document.querySelector('#sliders .now').style.left !== ''")
    opened.page.locator("#sliders input").first.fill("3.5")
    opened.page.locator("#sliders .probed input").fill("2")
    opened.until("document.querySelector('#views figure[data-kind=moved] canvas') !== null && !state.playing")
    opened.page.click("#cause")
    opened.until("state.futures && state.views.length === 2 && state.playing")
    opened.page.keyboard.press("2")
    opened.until("!state.futures")
    opened.page.click("#explorer summary")
    assert opened.see("state.errors") == [] and opened.said == []


def test_budgets(opened):
    """Guards models side by side that cannot be told apart, or brought to the front."""
    assert opened.see("[...document.querySelectorAll('figcaption b')].slice(0, 2).map((b) => b.textContent)") == [
        "world", "worded"
    ]  # fmt: skip
    opened.page.locator("#views figure").nth(1).click()
    opened.until("document.querySelectorAll('#views figure')[1].getAttribute('aria-pressed') === 'true'")
    opened.page.locator("#views figure").nth(0).click()
    opened.until("document.querySelectorAll('#views figure')[0].getAttribute('aria-pressed') === 'true'")


def test_who_plays_and_what_is_kept(opened, kept):
    """Guards a hand-over that the page forgets, a save that says nothing, and a prompt that does not reach the model.

    The saved episode's caption is the prompt that it was played under. A key typed into it is no key of the game.
    """
    opened.page.fill("#prompt", "the car drives ")
    opened.page.locator("#prompt").press_sequentially("away")
    opened.page.locator("#seed").focus()
    opened.page.click("#players [data-value=random]")
    opened.until("state.by === 'random' && state.at > 0")
    opened.page.click("#players [data-value=person]")
    opened.page.click("#speeds [data-value='Infinity']")
    opened.until("state.at > 40")
    opened.page.click("#save")
    opened.until("document.getElementById('said').textContent.startsWith('saved')")
    opened.page.click("#speeds [data-value='1']")
    assert "the car drives away" in (kept / "world/captions.jsonl").read_text()
    assert opened.see("state.errors") == []


def test_an_agent_and_the_planner_take_over(opened):
    """Guards players that the menu offers and nobody hands over to: steps come, and say how long a decision took."""
    for who in ("planner", "agent 0"):
        opened.page.click(f"#players [data-value='{who}']")
        opened.until(f"state.by === '{who}'")
        steps = opened.see("state.steps")
        opened.until(f"state.steps > {steps + 2} && state.ms.player > 0")
        assert len(set(opened.see("state.actions"))) == 1, "an action is held"
        opened.until("document.getElementById('thought').textContent.includes('ms')")
    opened.until("state.ms.futures == null")  # the planner's last decision may still come
    opened.page.click("#players [data-value=person]")
    opened.until("state.by === 'person' && state.ms.player === undefined")
    opened.until("document.getElementById('decides').hidden")
    assert opened.see("state.errors") == [] and opened.said == []


def test_it_reconnects(opened):
    """Guards a page that is dead after the connection is lost: it says so, comes back, and plays on."""
    opened.see("window.videowm.drop()")
    opened.until("!document.getElementById('lost').hidden")
    opened.until("state.connected && document.getElementById('lost').hidden")
    steps = opened.see("state.steps")
    opened.until(f"state.steps > {steps + 2}")
    assert opened.see("state.errors") == []
