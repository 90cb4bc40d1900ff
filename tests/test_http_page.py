"""The page at / in a real browser: it speaks, draws and lets itself be used by keyboard, narrow, in light and dark."""

import re
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http_servers import ServerProcess, running_server

webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("uvicorn")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        browser.set_page_load_timeout(SECONDS)
        yield browser
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server"), "--max-characters", "200") as server:
        yield server


@pytest.fixture
def page(browser, server: ServerProcess):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics(1000, 800))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.get(server.url)
    wait(browser, lambda: "at most 200" in shown(browser, "count"))
    return browser


def metrics(width: int, height: int) -> dict:
    return {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}


def wait(page, condition) -> None:
    WebDriverWait(page, SECONDS, poll_frequency=0.1).until(lambda _: condition())


def shown(page, name: str) -> str:
    return page.find_element(By.ID, name).text


def type_text(page, *keys: str) -> None:
    field = page.find_element(By.ID, "text")
    field.clear()
    field.send_keys(*keys)


def test_it_speaks_draws_and_offers_the_file(page, tmp_path: Path) -> None:
    type_text(page, "Hello there.")
    page.find_element(By.ID, "speak").click()
    wait(page, lambda: shown(page, "status").startswith(("Done", "Failed")))
    seconds = re.match(r"Done: ([\d.]+) s of audio, cut by the limit of frames, first sound", shown(page, "status"))
    assert seconds, shown(page, "status")
    canvas = page.find_element(By.CSS_SELECTOR, "canvas")
    assert canvas.get_attribute("height") == "12"  # symbols
    assert "hello there." in canvas.get_attribute("aria-label")
    behaviour = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    page.find_element(By.ID, "download").click()
    file = tmp_path / "speech.wav"
    wait(page, file.exists)
    with wave.open(str(file)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, 22050)
        assert wav.getnframes() / 22050 == pytest.approx(float(seconds[1]), abs=0.06)


def test_it_can_be_used_from_the_keyboard(page) -> None:
    type_text(page, "Hello there.")
    order = []
    for _ in range(3):
        page.switch_to.active_element.send_keys(Keys.TAB)
        order.append(page.switch_to.active_element.get_attribute("id"))
    assert order == ["speed", "seed", "speak"]
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(page, lambda: shown(page, "status").startswith("Done"))
    type_text(page, "Again.", Keys.CONTROL + Keys.ENTER)
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "canvas[height='6']") != [])


def test_the_word_that_is_heard_is_marked(page) -> None:
    type_text(page, "Pay 20% now, please.", Keys.CONTROL + Keys.ENTER)
    marked = set()

    def is_done() -> bool:
        marked.update(mark.text for mark in page.find_elements(By.CSS_SELECTOR, "#spoken mark"))
        return shown(page, "status").startswith(("Done", "Failed"))

    WebDriverWait(page, SECONDS, poll_frequency=0.02, ignored_exceptions=[StaleElementReferenceException]).until(
        lambda _: is_done()
    )
    assert marked & {"20%", "now,", "please."}
    assert not page.find_element(By.ID, "spoken").is_displayed()


def test_escape_stops_it(page, server: ServerProcess) -> None:
    with server.fault("decoder_iter", "slow"):
        type_text(page, "word " * 30, Keys.CONTROL + Keys.ENTER)
        wait(page, lambda: server.status()["active"] == 1)
        page.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        wait(page, lambda: shown(page, "status") == "Stopped")
        wait(page, lambda: server.status()["active"] == 0)
    assert page.find_element(By.ID, "speak").is_enabled()


def test_the_servers_errors_are_told(page, server: ServerProcess) -> None:
    type_text(page, "x" * 201, Keys.CONTROL + Keys.ENTER)
    wait(page, lambda: "at most 200 are spoken" in shown(page, "status"))
    with server.fault("waveglow", "nan", after=1):
        type_text(page, "word " * 30, Keys.CONTROL + Keys.ENTER)
        wait(page, lambda: "NaN" in shown(page, "status"))
    assert not page.find_element(By.ID, "download").is_displayed()


@pytest.mark.parametrize("width", [320, 480, 1400])
def test_it_fits_the_window(page, width: int) -> None:
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics(width, 700))
    type_text(page, "Hello there.", Keys.CONTROL + Keys.ENTER)
    wait(page, lambda: shown(page, "status").startswith("Done"))
    wanted, given = page.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth];"
    )
    assert wanted <= given <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(page, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    script = "const style = getComputedStyle(document.querySelector(arguments[0])); return style[arguments[1]];"
    ground = luminance(page.execute_script(script, "body", "backgroundColor"))
    assert (ground < 0.1) == (scheme == "dark")
    for selector in ("h1", ".quiet", "label"):
        ink = luminance(page.execute_script(script, selector, "color"))
        lighter, darker = max(ground, ink), min(ground, ink)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG's contrast for text


def luminance(colour: str) -> float:
    """Relative luminance of a CSS `rgb(r, g, b)`, by WCAG."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_nothing_comes_from_elsewhere_and_every_field_has_a_label(page, server: ServerProcess) -> None:
    names = page.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name);")
    assert names
    assert all(name.startswith(server.url) for name in names)
    unlabelled = page.execute_script(
        "return [...document.querySelectorAll('input, textarea')].filter((field) => !field.labels.length).length;"
    )
    assert unlabelled == 0


def test_a_key_is_asked_for_where_there_is_one(browser, tmp_path: Path) -> None:
    with running_server(tmp_path, "--api-key", "secret") as server:
        browser.get(server.url)
        wait(browser, lambda: browser.find_element(By.ID, "key").is_displayed())
        browser.find_element(By.ID, "key").send_keys("secret", Keys.TAB)
        wait(browser, lambda: "at most" in shown(browser, "count") and "Infinity" not in shown(browser, "count"))
        type_text(browser, "Hello.", Keys.CONTROL + Keys.ENTER)
        wait(browser, lambda: shown(browser, "status").startswith("Done"))
