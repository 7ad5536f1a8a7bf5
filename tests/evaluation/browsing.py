"""Headless Chromium: what a page looks like to a browser, without a driver."""

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Shows a page in a frame of a phone's width, and writes into its own title how wide the page wants to be. Pages may not
# run scripts of their own, but the frame's owner can look in.
_FRAME = """<!doctype html><title>…</title>
<iframe id="f" style="width:{width}px;height:800px;border:0"></iframe>
<script>
const frame = document.getElementById("f");
frame.onload = () => {{
  const root = frame.contentDocument.documentElement;
  document.title = root.scrollWidth + " of " + root.clientWidth + ", " +
    getComputedStyle(frame.contentDocument.body).backgroundColor;
}};
frame.srcdoc = {page};
</script>"""


@cache
def _found() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name)) and _starts(path)), None)


def _starts(path: str) -> bool:
    """Say whether it is a browser: a file of its name may only ask for one, or be half of an installation."""
    return subprocess.run([path, "--version"], capture_output=True, check=False).returncode == 0


def chromium() -> str:
    """Return the browser's command, or skip the test."""
    found = _found()
    if found is None:
        pytest.skip(f"needs Chromium: none of {', '.join(_NAMES)} starts (Debian: apt-get install chromium)")
    return found


def browse(page: Path, *options: str) -> tuple[str, list[str]]:
    """Open a file and return its document as the browser has it, and what it said on the console."""
    command = [chromium(), "--headless", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--v=0"]
    if os.geteuid() == 0:
        command.append("--no-sandbox")  # which Chromium needs where root runs it
    command += [f"--user-data-dir={page.parent / 'profile'}", *options, "--dump-dom", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout, re.findall(r".*CONSOLE.*", ran.stderr)


def frame(page: Path, *options: str, width: int) -> tuple[int, int, str, list[str]]:
    """Open a file in a frame of a width; return how wide it is, how wide it may be, its background and the console."""
    owner = page.with_suffix(".frame.html")
    text = json.dumps(page.read_text("utf-8")).replace("</", "<\\/")
    owner.write_text(_FRAME.format(width=width, page=text), "utf-8")
    document, said = browse(owner, "--virtual-time-budget=5000", *options)
    wide, room, background = re.search(r"<title>(\d+) of (\d+), (.*?)</title>", document).groups()
    return int(wide), int(room), background, said
