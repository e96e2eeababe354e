"""How long the review takes over a run of many studies, in a browser: its start, pages and entries.

    python benchmarks/review.py [--studies 5000] [--pages 40] [--keep FOLDER]

The run is that of benchmarks/view.py: two films of 2544 x 3056 pixels a study, three methods, nine sentences a report;
the reports of one method are reviewed. `conrad-bench review` serves it in a process of its own, and Chromium (by
playwright) goes from report to report by keyboard. Times of pages are the browser's own, from the start of the
navigation: until the sentences can be rated (the page's script has run), and until both pictures are loaded as well.
The reader rests a second on each report. An entry is there when the page says "Saved"; that time includes playwright's.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from view import line, make

TIMES = """() => {
  const found = performance.getEntriesByType("navigation")[0];
  return [found.domContentLoadedEventEnd, found.loadEventEnd];
}"""


def main() -> None:
    """Make the run, serve it, review it."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=5000)
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="folder of the made-up run, written if it is not there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "made"
        if not folder.is_dir():
            make(folder, arguments.studies)
        command = [str(Path(sys.executable).with_name("conrad-bench")), "review", str(folder / "run"), "--no-browser"]
        command += ["--method", "conrad", "--plugin", str(folder / "data" / "made_up.yaml")]
        start = time.perf_counter()
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
            sync_playwright() as playwright,
        ):
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            print(f"{arguments.studies:,} studies: ready after {time.perf_counter() - start:.1f} s")
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = chromium.new_page()
            pages, whole, entries = [], [], []
            page.goto(address)
            for number in range(arguments.pages + 1):
                if number:
                    before = page.url
                    page.keyboard.press("n")
                    page.wait_for_url(lambda url, before=before: url != before, wait_until="load")
                page.wait_for_selector(".sentence.now")
                time.sleep(1)
                rated, loaded = page.evaluate(TIMES)
                pages.append(rated)
                whole.append(loaded)
                start = time.perf_counter()
                page.keyboard.press("4")
                page.wait_for_selector("#saved:text-matches('^Saved at')")
                entries.append(1000 * (time.perf_counter() - start))
            print(f"the first page {pages[0]:.0f} ms, with its pictures {whole[0]:.0f} ms")
            with open(f"/proc/{server.pid}/status") as file:
                print(next(row.strip() for row in file if row.startswith("VmHWM")))
            print("| milliseconds | median | 95 % | most |\n| --- | --- | --- | --- |")
            line("the next report", pages[1:])
            line("with its two pictures", whole[1:])
            line("an entry, to the disk and back", entries)
            chromium.close()
            server.terminate()


if __name__ == "__main__":
    main()
