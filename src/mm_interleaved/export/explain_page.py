"""Explanation → one self-contained HTML page, and a PNG for one word or region.

Every word is a button and every painted picture a grid: hovering, tabbing or touching lights up the points in the earlier pictures and
says in words what a screen reader then reads. The page's one script stands in it and is the only one its policy allows; a list at the
end says the same without it, for print and for reading.
"""

import html
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image as pillow
from PIL import ImageDraw

from mm_interleaved.document import Image
from mm_interleaved.export.explanation import Explanation, Look, Reading, average, image_places
from mm_interleaved.export.files import data_uri
from mm_interleaved.export.html import framed, resource
from mm_interleaved.export.lettering import Font, lettered

SHOWN_POINTS = 24
"""Heaviest points that the page shows per picture; shares and hottest places count all."""
PICTURE_SIDE = 384
"""Pixels of one picture's longer side in a PNG."""
LETTERS = 15
"""Pixels of the letters in a PNG."""
_NOTHING = "has no earlier picture to look at."


def to_html(explanation: Explanation, title: str = "What each word looked at") -> str:
    """The page as a string."""
    data = {f"w{number}": _entry(f"“{word.text}”", reading) for number, (word, reading) in enumerate(_words(explanation))}
    told = [entry["told"] for entry in data.values() if entry["looks"]]
    for picture in explanation.pictures:
        regions = []
        for cell in range(picture.side**2):
            row, column = divmod(cell, picture.side)
            regions.append(explanation.region(picture.image, row, column))
            name = f"Picture {picture.image + 1}, row {row + 1}, column {column + 1}"
            data[f"p{picture.image}-{cell}"] = _entry(name, regions[-1])
        told.append(_entry(f"Picture {picture.image + 1}", average(regions))["told"])
    moment = "was read" if explanation.moment == "read" else "was about to be written"
    strip = "".join(_figure(image, number, "idle", 'aria-hidden="true"') for number, image in enumerate(explanation.document.images))
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in told)
    content = (
        f'<h1>{html.escape(title)}</h1>\n<p class="hint">Point at a word, tab to it or touch it: the dots are the places it looked at in '
        f"earlier pictures when it {moment}; the larger, the more weight. In a painted picture every region can be asked, by arrow keys "
        f'too.</p>\n<div class="words">{"".join(_flow(explanation))}</div>\n'
        f'<section class="seen" aria-label="Earlier pictures"><div class="strip">{strip}</div><p id="told" role="status"></p></section>\n'
        f'<section class="said"><h2>In words</h2><ul>{said}</ul></section>\n'
        f"<footer>Model {html.escape(explanation.model_hash[:8])}, noise seed {explanation.seed}. Made with mm-interleaved.</footer>"
    )
    style, script = resource("explain_page.css"), resource("explain_page.js")
    return framed(content, title, style=style, data=json.dumps(data, ensure_ascii=False), script=script)


def to_png(explanation: Explanation, reading: Reading, name: str, fonts: Sequence[Font] = ()) -> bytes:
    """All pictures that a word or region looked at, side by side, with heat and points.

    Args:
        name: the word or region, for the lines above.
        fonts: for scripts that `export/lettering.py` may not find fonts for; of size `LETTERS`.
    """
    images = explanation.document.images
    tiles = [_tile(images[look.image], look) for look in reading.looks]
    margin = 12
    width = max(sum(tile.width + margin for tile in tiles) + margin, 2 * PICTURE_SIDE)
    told = lettered(_entry(name, reading)["told"], width - 2 * margin, size=LETTERS, fonts=fonts)
    sheet = pillow.new("RGB", (width, max((tile.height for tile in tiles), default=0) + told.height + 3 * margin), "white")
    sheet.paste(told, (margin, margin))
    left = margin
    for tile in tiles:
        sheet.paste(tile, (left, told.height + 2 * margin))
        left += tile.width + margin
    stream = io.BytesIO()
    sheet.save(stream, format="PNG")
    return stream.getvalue()


def _tile(image: Image, look: Look) -> pillow.Image:
    picture = pillow.fromarray(image.array())
    scale = PICTURE_SIDE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), pillow.Resampling.BICUBIC)
    heat = look.heat()
    strength = pillow.fromarray((170 * heat / max(heat.max(), 1e-12)).astype(np.uint8)).resize(picture.size, pillow.Resampling.BICUBIC)
    picture.paste((255, 90, 31), (0, 0), strength)
    draw = ImageDraw.Draw(picture)
    for (x, y), weight in zip(look.xy, look.weights, strict=True):
        radius = max(1.0, 0.2 * PICTURE_SIDE * weight**0.5)
        centre = x * picture.width, y * picture.height
        draw.ellipse((centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius), outline="white")
    return picture


def _words(explanation: Explanation) -> Iterator[tuple[Any, Reading]]:
    return zip(explanation.words, explanation.readings, strict=True)


def _entry(name: str, reading: Reading) -> dict[str, Any]:
    """What the page's script needs of one reading, and what it says."""
    if not reading.looks:
        return {"looks": {}, "told": f"{name} {_NOTHING}"}
    looks = {}
    for look in reading.looks:
        points = look.strongest(SHOWN_POINTS).to_json()["points"]
        looks[look.image] = {"share": f"{100 * look.share:.0f} %", "hottest": look.hottest(), "points": points}
    parts = [f"picture {look.image + 1}: {100 * look.share:.0f} %{_where(look.hottest())}" for look in reading.looks]
    return {"looks": looks, "told": f"{name} looked at {'; '.join(parts)}. To no picture: {100 * reading.null_share:.0f} %."}


def _where(place: tuple[float, float] | None) -> str:
    if place is None:
        return ""
    across = ("left", "middle", "right")[min(2, int(3 * place[0]))]
    down = ("upper", "middle", "lower")[min(2, int(3 * place[1]))]
    return ", most in the " + ("middle" if across == down else f"{down} {across}")


def _flow(explanation: Explanation) -> Iterator[str]:
    """The document in reading order: words as buttons, pictures, painted ones with their regions."""
    pictures = image_places(explanation.document)
    sides = {picture.image: picture.side for picture in explanation.pictures}
    for segment, member in enumerate(explanation.document):
        if isinstance(member, Image):
            number = pictures[segment]
            name = f'aria-label="Regions of picture {number + 1}; choose with the arrow keys"'
            grid = f'class="grid" data-picture="{number}" data-side="{sides.get(number)}" tabindex="0" role="application" {name}'
            yield _figure(member, number, "painted", grid if number in sides else "")
            continue
        text, end, parts = explanation.texts[segment], 0, []
        for number, (word, reading) in enumerate(_words(explanation)):
            if word.segment == segment:
                blind = "" if reading.looks else " blind"
                button = (
                    f'<button type="button" class="w{blind}" data-key="w{number}" aria-describedby="told">{html.escape(word.text)}</button>'
                )
                parts += [html.escape(text[end : word.start]), button]
                end = word.end
        yield "<p>" + "".join([*parts, html.escape(text[end:])]).replace("\n", "<br>") + "</p>"


def _figure(image: Image, number: int, kind: str, drawn: str) -> str:
    """A picture under an empty drawing with these attributes, whose longer side is 100."""
    width, height = image.size
    box = f"0 0 {100 * width / max(image.size):.4g} {100 * height / max(image.size):.4g}"
    picture = f'<img src="{data_uri(image)}" alt="{html.escape(image.alt, quote=True)}" width="{width}" height="{height}">'
    stage = f'<span class="stage">{picture}<svg viewBox="{box}" {drawn}></svg></span>'
    return f'<figure class="{kind}">{stage}<figcaption>Picture {number + 1} <output></output></figcaption></figure>'
