"""How long the review takes over a run of many studies, in a browser: its start, pages and entries.

    python benchmarks/review.py [--studies 5000] [--pages 40] [--keep FOLDER]

The run is that of benchmarks/view.py: two films of 2544 x 3056 pixels a study, three methods, nine sentences a report;
the reports of one method are reviewed. `conrad-bench review` serves it in a process of its own, and Chromium (by
playwright) goes from report to report by keyboard. Times of pages are the browser's own, from the key: until the next
report's sentences are painted and can be rated, and until both of its pictures are decoded as well. A page that was not
there ahead is loaded anew, which is counted; its time, as that of the first page, is from the start of the navigation.
The reader rests a second on each report. An entry is there when the page says "Saved"; that time includes playwright's.
"""

from __future__ import annotations

import shutil
import time

from view import line, memory, served

TIMES = """() => {
  const found = performance.getEntriesByType("navigation")[0];
  return [found.domContentLoadedEventEnd, found.loadEventEnd];
}"""

WATCH = """() => {
  const number = () => document.getElementById("review").dataset.number;
  const before = number();
  window.shown = new Promise((done) => addEventListener("keydown", (event) => {
    const look = () => {
      if (number() === before || !document.querySelector(".sentence.now")) return requestAnimationFrame(look);
      requestAnimationFrame(() => setTimeout(async () => {
        const rated = performance.now() - event.timeStamp;
        await Promise.all([...document.querySelectorAll(".film img")].map((image) => image.decode()));
        done([rated, performance.now() - event.timeStamp]);
      }));
    };
    requestAnimationFrame(look);
  }, { once: true, capture: true }));
}"""


def main() -> None:
    """Make the run, serve it, review it."""
    from playwright.sync_api import sync_playwright

    with (
        served("review", 40, "--method", "conrad") as (arguments, server, address, ready),
        sync_playwright() as playwright,
    ):
        print(f"{arguments.studies:,} studies: ready after {ready:.1f} s")
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = chromium.new_page()
        pages, whole, entries, anew = [], [], [], 0
        page.goto(address)
        for number in range(arguments.pages + 1):
            if number:
                before = page.url
                page.evaluate(WATCH)
                page.keyboard.press("n")
                page.wait_for_url(lambda url, before=before: url != before, wait_until="load")
            page.wait_for_selector(".sentence.now")
            times = page.evaluate("window.shown ?? null")
            time.sleep(1)
            anew += times is None
            rated, loaded = times or page.evaluate(TIMES)
            pages.append(rated)
            whole.append(loaded)
            start = time.perf_counter()
            page.keyboard.press("4")
            page.wait_for_selector("#saved:text-matches('^Saved at')")
            entries.append(1000 * (time.perf_counter() - start))
        print(f"the first page {pages[0]:.0f} ms, with its pictures {whole[0]:.0f} ms")
        print(f"pages loaded anew: {anew - 1} of {arguments.pages}")
        memory(server)
        print("| milliseconds | median | 95 % | most |\n| --- | --- | --- | --- |")
        line("the next report", pages[1:])
        line("with its two pictures", whole[1:])
        line("an entry, to the disk and back", entries)
        chromium.close()


if __name__ == "__main__":
    main()
