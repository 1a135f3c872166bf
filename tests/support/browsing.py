"""Checks of every page in a browser."""

from __future__ import annotations

from playwright.sync_api import Page, Request

WIDTHS = {"phone": 390, "desk": 1280}

#: Elements that overflow the window or their drawing. Scrolling containers may be wider, but not on
#: paper; a wide confusion matrix has a page of its own.
STICKING_OUT = """() => {
  const paper = matchMedia("print").matches
  const out = []
  for (const element of document.querySelectorAll("body *")) {
    const scroll = element.parentElement.closest(paper ? ".scroll:has(.matrix)" : ".scroll")
    const drawing = element.parentElement.closest("svg")
    const box = element.getBoundingClientRect()
    if (scroll || !box.width) continue
    const room = drawing ? drawing.getBoundingClientRect() : {
      left: 0, right: document.documentElement.clientWidth, top: -1e9, bottom: 1e9,
    }
    if (box.left < room.left - 1 || box.right > room.right + 1
        || box.top < room.top - 1 || box.bottom > room.bottom + 1)
      out.push(element.outerHTML.slice(0, 200))
  }
  return out
}"""


def listen(page: Page, address: str, said: list[str]) -> None:
    """Notes what a page says or asks for: nothing but itself and pictures that are in it."""

    def asked(request: Request) -> None:
        if request.url != address and not request.url.startswith("data:image/jpeg;"):
            said.append(f"request: {request.url[:200]}")

    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", asked)
