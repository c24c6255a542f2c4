"""Walks through docs/prefect-guide.md with a real Prefect server and a real browser, and takes its screenshots.

    python docs/screenshots.py WHEEL FOLDER

Contract. Commands are typed as the guide has them, in an environment with the wheel and the libraries of this
interpreter; nothing is downloaded. What the guide says is done in Chromium, and what is seen there is compared with `o9
show ID --json`. The first difference ends the walk with an error. FOLDER gets the pictures that the guide shows. Needs
chromium and chromedriver.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

GUIDE = Path(__file__).with_name("prefect-guide.md").read_text(encoding="utf-8")
PATIENCE = 240.0  # seconds; the worker looks every ten, alerts are sent every minute
WIDTH, HEIGHT, BARS, SIDEBAR = 1200, 1300, 143, 256  # of Chromium's window, its own bars, and Prefect's pages
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", f"--window-size={WIDTH},{HEIGHT}",
)  # fmt: skip
DIALOG = "//*[@role='dialog' or @role='alertdialog']"


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """What `condition` returns once that is true; an error of a browser that draws meanwhile counts as false."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(WebDriverException):
            if found := condition():
                return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port: int = tried.getsockname()[1]
        return port


class Terminal:
    """A shell in which commands are typed. What ends with & writes to `background.log`."""

    MARK = "exit code of what was typed: "

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, bufsize=1,
        )  # fmt: skip

    def type(self, command: str) -> str:
        """Its output. Raises RuntimeError if it fails."""
        print("$", command, flush=True)
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        there = f"{command[:-1]} >>background.log 2>&1 &" if command.endswith("&") else command
        self._shell.stdin.write(f"{there}\necho; echo '{self.MARK}'$?\n")
        lines: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(self.MARK):
                if (code := line.removeprefix(self.MARK).strip()) != "0":
                    raise RuntimeError(f"{command!r} ended with {code}:\n{''.join(lines)}")
                return "".join(lines)
            lines.append(line)
        raise RuntimeError(f"the shell has ended:\n{''.join(lines)}")

    def close(self) -> None:
        started = psutil.Process(self._shell.pid)
        left = [*started.children(recursive=True), started]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(left, timeout=20)[1]:
            process.kill()


class Slack:
    """What receives the messages in its place: an HTTP server that keeps what is posted to /slack."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        kept = self.messages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/slack":
                    kept.append(json.loads(body))
                self.send_response(200)
                self.end_headers()

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


class Browser:
    """Chromium at Prefect's pages."""

    def __init__(self, root: str, pictures: Path) -> None:
        self._root, self._pictures = root, pictures
        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def open(self, path: str) -> None:
        self.driver.get(self._root + path)

    def find(self, xpath: str, use: Callable[[WebElement], Any] = lambda found: None) -> WebElement:
        """The first that is displayed, once there is one; `use` does something with it."""

        def used() -> WebElement | None:
            for found in self.driver.find_elements(By.XPATH, xpath):
                if found.is_displayed():
                    use(found)
                    return found
            return None

        found: WebElement = wait_for(used, f"{xpath} on {self.driver.current_url}", 90.0)
        return found

    def press(self, words: str, within: str = "") -> None:
        """A button, link, tab or entry of a menu with these words."""
        kinds = "self::button or self::a or @role='menuitem' or @role='option' or @role='tab'"
        has = f"normalize-space()='{words}'"
        self.find(f"{within}//*[{kinds}][{has} or .//*[{has}]]", lambda found: found.click())

    def field(self, label: str) -> WebElement:
        """The first one behind the label."""
        words = f"normalize-space()='{label}' or normalize-space()='{label} (Optional)'"
        return self.find(
            f"//label[{words}]/following::*[self::input or self::textarea or @role='combobox' or @role='switch']"
        )

    def fill(self, label: str, value: str) -> None:
        field = self.field(label)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def text(self) -> str:
        return self.driver.find_element(By.TAG_NAME, "body").text

    def optimization(self) -> str:
        """The id in the name of the run that the page shows."""
        found = wait_for(lambda: re.search(r"^.+ · ([\w-]+)$", self.text(), re.MULTILINE), "a run that has begun")
        name: str = found[1]
        return name

    def see(self, words: str, seconds: float = PATIENCE) -> None:
        wait_for(lambda: words in self.text(), f"{words!r} on {self.driver.current_url}", seconds)

    def shoot(self, name: str, height: int = 760) -> None:
        """A picture of the page's upper part, without the sidebar, made a little smaller."""
        self.driver.set_window_size(WIDTH, height + BARS)
        self.driver.execute_script("window.scrollTo(0, 0)")
        time.sleep(0.5)  # what slides in
        clip = {"x": SIDEBAR, "y": 0, "width": WIDTH - SIDEBAR, "height": height, "scale": 0.8}
        told = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
        (self._pictures / f"{name}.png").write_bytes(base64.b64decode(told["data"]))
        self.driver.set_window_size(WIDTH, HEIGHT)


class Walk:
    """One reader with a terminal and a browser. Its methods are the guide's sections, in their order."""

    def __init__(self, wheel: Path, pictures: Path, folder: Path) -> None:
        self._folder, self._port, self.slack = folder, str(free_port()), Slack()
        environment = os.environ | {
            "PATH": os.pathsep.join([f"{sys.base_prefix}/bin", os.environ["PATH"]]),
            "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_API_PORT": self._port,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # Else its SQLite is "locked" on a busy machine.
            "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100", "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
            "O9_SPOOL_FOLDER": str(folder / "spool"),
            "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_FIND_LINKS": str(wheel.resolve().parent),
        }  # fmt: skip
        self.terminal = Terminal(folder, environment)
        self.browser = Browser(f"http://127.0.0.1:{self._port}/v2", pictures)
        self._blocks: Iterator[str] = iter(())

    def close(self) -> None:
        self.browser.driver.quit()
        self.terminal.close()

    def type_next(self) -> str:
        """Type the section's next block of commands; returns what the last one printed."""
        told = ""
        for command in re.findall(r"^\$ (.+)$", next(self._blocks), re.MULTILINE):
            told = self.terminal.type(command.replace("4200", self._port))
            if command.startswith("pip install"):
                self._libraries()
            if "server start" in command:
                wait_for(self._server_answers, "Prefect's server")
        return told

    def _libraries(self) -> None:
        """In place of downloads: what this interpreter has, and Prefect's command."""
        environment = self._folder / ".venv"
        (site,) = environment.glob("lib/python*/site-packages")
        found = [entry for entry in sys.path if entry.endswith("site-packages")]
        (site / "libraries.pth").write_text("\n".join(found) + "\n")  # their .pth files are not followed
        command = environment / "bin" / "prefect"
        command.write_text(f"#!{environment}/bin/python\nfrom prefect.cli import app\napp()\n")
        command.chmod(0o755)

    def _server_answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(urlopen(f"http://127.0.0.1:{self._port}/api/health").status == 200)
        return False

    def shown(self, optimization_id: str, status: str = "") -> dict[str, Any]:
        """What `o9 show ID --json` prints, once it has this status."""

        def there() -> dict[str, Any] | None:
            told: dict[str, Any] = json.loads(self.terminal.type(f"o9 show {optimization_id} --json"))
            return told if status in ("", told["status"]) else None

        found: dict[str, Any] = wait_for(there, f"{optimization_id} is {status}")
        return found

    def go(self) -> None:
        """The whole guide."""
        for section in GUIDE.split("\n## ")[1:]:
            heading, text = section.split("\n", 1)
            print("##", heading, flush=True)
            self._blocks = iter(re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
            for name, content in re.findall(r"`(\w+\.yaml)`:\n\n```yaml\n(.*?)```", text, re.DOTALL):
                (self._folder / name).write_text(content)
            SECTIONS[heading](self)
            assert next(self._blocks, None) is None, f"not typed in {heading}"

    def install(self) -> None:
        self.type_next()
        self.type_next()

    def where_messages_go(self) -> None:
        browser = self.browser
        browser.open("/blocks/catalog/o9-alert-channel/create")
        browser.fill("Name", "desk")
        browser.fill("URL", f"{self.slack.url}/mistyped")
        browser.shoot("block", 330)
        browser.press("Save")
        browser.see("Paste this snippet")
        browser.press("Open menu")
        browser.press("Edit")
        browser.see("Block names are not editable")
        browser.fill("URL", f"{self.slack.url}/slack")
        browser.press("Save")
        browser.see("Block updated successfully")

    def deploy(self) -> None:
        self.type_next()
        self.browser.open("/deployments")
        wait_for(lambda: self.browser.text().count("Ready") - self.browser.text().count("Not Ready") == 6, "a worker")
        self.browser.shoot("deployments", 560)
        log = self._folder / "background.log"
        wait_for(lambda: "o9.flows.deliver_alerts" in log.read_text(errors="replace"), "a run of deliver-alerts")

    def run(self) -> None:
        browser = self.browser
        browser.press("optimization-lifecycle")
        browser.press("Run")
        browser.press("Custom run")
        browser.fill("Name", "Crossover search")
        browser.find(
            "//label[starts-with(normalize-space(), 'Objective')]/following::button[normalize-space()='Select']",
            lambda found: found.click(),
        )
        browser.press("crossover:crossover")
        browser.fill("Trials Per Step", "4")
        browser.fill("Hold Out", "0.3")
        browser.fill("Seed", "7")
        browser.field("On Completion").click()
        browser.fill("Steps", "-20")
        browser.press("Submit")
        assert browser.field("Steps").get_property("validationMessage"), "-20 steps are refused"
        browser.fill("Steps", "20")
        browser.shoot("form", 1330)
        browser.press("Submit")
        browser.press("View run")
        name = browser.optimization()
        found = self.shown(name, "completed")
        assert (found["name"], found["completed_steps"]) == ("Crossover search", 20)
        browser.see("Completed")
        self._artifacts("MARKDOWN", "TABLE")
        browser.press("o9-crossover-search")
        browser.see(f"{found['current_performance']:.4g}")
        browser.see("Luck can explain this result")
        browser.shoot("result", 1030)
        browser.driver.back()
        browser.press("o9-crossover-search-trials")
        browser.see("seconds")
        browser.shoot("trials", 700)
        browser.driver.back()

    def _artifacts(self, *kinds: str) -> None:
        """Reload the run's page until it has artifacts of these kinds."""

        def there() -> bool:
            self.browser.driver.refresh()
            self.browser.press("Artifacts")
            time.sleep(2)  # the page asks the server
            return set(kinds) <= set(self.browser.text().split())

        wait_for(there, f"artifacts: {kinds}")

    def steer(self) -> None:
        browser = self.browser
        browser.press("Open menu")
        browser.press("Copy to new run")
        browser.fill("Name", "Long search")
        browser.fill("Steps", "300")
        browser.fill("Trials Per Step", "40")
        browser.press("Submit")
        browser.press("View run")
        name = browser.optimization()
        self._artifacts("PROGRESS", "TABLE")
        browser.see("of 300 steps")
        browser.shoot("progress", 860)
        assert self.shown(name)["status"] == "running"
        self._choose("Pause", "Pause Flow Run")
        browser.see("Suspended")
        steps = self.shown(name, "paused")["completed_steps"]
        self._choose("Resume", "Resume")
        browser.see("Running")
        wait_for(lambda: self.shown(name, "running")["completed_steps"] > steps, "steps behind the pause")
        self._choose("Cancel", "Cancel Flow Run")
        browser.see("Cancelled")
        found = self.shown(name, "cancelled")
        assert steps < found["completed_steps"] < 300

    def _choose(self, entry: str, button: str) -> None:
        self.browser.press("Open menu")
        self.browser.press(entry)
        self.browser.press(button, DIALOG)

    def the_message(self) -> None:
        message = wait_for(lambda: self.slack.messages, "a message")[0]
        print(message["title"], message["message"], sep="\n\n")
        for words in (
            "[INFO] Optimization completed",
            "Crossover search ended at",
            "- Optimization: ",
            "/runs/flow-run/",
        ):
            assert words in f"{message['title']}\n{message['message']}", words
            assert words in GUIDE, words

    def every_night(self) -> None:
        browser = self.browser
        self.type_next()
        browser.open("/deployments")
        browser.press("crossover-search")
        browser.press("Schedule")
        browser.fill("Value", "1")
        browser.press("Open menu", f"{DIALOG}//label[starts-with(normalize-space(), 'spec')]/ancestor::div[2]")
        browser.press("Omit value")
        browser.press("Save", DIALOG)
        browser.see("Every 1 minute")

        def two_runs() -> bool:
            found = json.loads(self.terminal.type("o9 list --series 'Crossover search' --json"))
            return [each["status"] for each in found].count("completed") >= 2

        wait_for(two_runs, "two runs of the schedule", 2 * PATIENCE)
        browser.driver.refresh()
        browser.see("Crossover search ·")
        browser.shoot("schedule", 860)
        self.type_next()


SECTIONS: dict[str, Callable[[Walk], None]] = {
    "Install": Walk.install,
    "Where messages go": Walk.where_messages_go,
    "Deploy": Walk.deploy,
    "Run": Walk.run,
    "Suspend, resume, cancel": Walk.steer,
    "The message": Walk.the_message,
    "Every night": Walk.every_night,
    "From here": lambda walk: None,
}


def main(wheel: str, pictures: str) -> None:
    Path(pictures).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="o9-guide-") as folder:
        walk = Walk(Path(wheel), Path(pictures), Path(folder))
        try:
            walk.go()
        except BaseException:
            print((Path(folder) / "background.log").read_text()[-20_000:])
            raise
        finally:
            walk.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
