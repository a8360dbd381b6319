"""A real browser for tests of pages: headless Chromium, where the machine has one."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ENDING = """
<script>
addEventListener("load", async () => {
  let found;
  try { found = await (async () => { SCRIPT })(); }
  catch (error) { found = {error: String(error)}; }
  parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
_FRAME = """<!doctype html><body style="margin:0"><pre id="found"></pre>
<iframe src="PAGE" style="width:WIDTHpx;height:900px;border:0"></iframe>
<script>
addEventListener("message", event => {
  document.getElementById("found").textContent = event.data;
});
</script></body>
"""


_SILENT = """<!doctype html><body><pre id="found"></pre>
<iframe sandbox="allow-same-origin" src="PAGE" style="width:1280px;height:900px"></iframe>
<script>
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const found = (() => { SCRIPT })();
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script></body>
"""


def chromium():
    """Return the browser's path; skip the test where there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no Chromium is installed (looked for {', '.join(_NAMES)})")
    return found


def dump(page, folder, *options):
    """Return the page's elements, as text, after its scripts have run."""
    command = [
        chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=4000", "--window-size=1400,1000",
        "--allow-file-access-from-files", *options, "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def run(page, folder, script, *, width=1280, dark=False):
    """Run a script in a page of this width, and return what it returned.

    Args:
        page: a path.
        folder: where copies of the page may lie: beside it, for its relative links.
        script: the body of an asynchronous function that returns what JSON can hold.
        width: of the page; in a frame, as windows have a least width of their own.
        dark: ask for dark colours.
    """
    text = page.read_text(encoding="utf-8")
    own = page.with_name(f"tested-{page.name}")
    own.write_text(text.replace("</body>", _ENDING.replace("SCRIPT", script) + "</body>"), "utf-8")
    frame = folder / "frame.html"
    frame.write_text(_FRAME.replace("PAGE", own.as_uri()).replace("WIDTH", str(width)), "utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    return _found(dump(frame, folder, scheme))


def look(page, folder, script):
    """Return what a script finds in ``page``, the document of a page whose own scripts are off."""
    frame = folder / "frame.html"
    text = _SILENT.replace("PAGE", page.as_uri()).replace("SCRIPT", script)
    frame.write_text(text, "utf-8")
    return _found(dump(frame, folder))


def _found(dumped):
    found = re.search(r'<pre id="found">(.*?)</pre>', dumped, re.S)
    assert found, dumped[:2000]
    assert found[1], "the page's script did not end"
    value = json.loads(unescape(found[1]))
    assert not (isinstance(value, dict) and "error" in value), value
    return value
