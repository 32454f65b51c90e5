"""Whose logo, which flag, and what is known about it: two hops, from the picture to the name and from the name to the facts.

Training teaches every name by its picture and every fact in documents without pictures. For a third of the companies and countries it
never shows picture and fact together: those are what the test split asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from mm_interleaved.data.playground.material.signs import Brand, Country, brands, countries, drawing
from mm_interleaved.data.playground.scene import GROUNDS
from mm_interleaved.data.playground.tasks import canvas
from mm_interleaved.data.playground.tasks.looking import draw_language
from mm_interleaved.data.playground.tasks.samples import Sample, Segment
from mm_interleaved.data.playground.tasks.wording import Language
from mm_interleaved.data.playground.world import World, choose, fraction

HELD_OUT = 1 / 3
"""Share of companies and countries whose picture and facts never meet in training."""
CONTRAST = 90
"""Least difference (of 255, in some channel) between a logo's mean colour and its ground."""

KINDS: dict[str, dict[str, tuple[str, str]]] = {
    "car": {"en": ("car maker", "it builds cars for the road."), "zh": ("汽车公司", "它生产汽车。")},
    "airline": {"en": ("airline", "people fly with it from city to city."), "zh": ("航空公司", "人们坐它的飞机旅行。")},
    "electronics": {"en": ("electronics maker", "it makes phones and other devices."), "zh": ("电子公司", "它生产手机等电子产品。")},
    "camera": {"en": ("camera maker", "people take photos with its cameras."), "zh": ("相机公司", "人们用它的相机拍照。")},
    "chip": {"en": ("chip maker", "its chips work inside computers."), "zh": ("芯片公司", "它的芯片用在电脑里。")},
    "restaurant": {"en": ("fast food chain", "people eat quick meals there."), "zh": ("快餐店", "人们去那里吃快餐。")},
    "coffee": {"en": ("coffee house chain", "people drink coffee there."), "zh": ("咖啡店", "人们去那里喝咖啡。")},
    "drink": {"en": ("drink maker", "its drinks come in cans and bottles."), "zh": ("饮料公司", "它的饮料装在罐子和瓶子里。")},
    "sport": {"en": ("sportswear maker", "people wear its shoes for sport."), "zh": ("运动品牌", "人们穿它的鞋运动。")},
    "clothes": {"en": ("clothes shop chain", "people buy clothes there."), "zh": ("服装店", "人们在那里买衣服。")},
    "furniture": {"en": ("furniture shop chain", "people buy beds and tables there."), "zh": ("家具店", "人们在那里买床和桌子。")},
    "shop": {"en": ("supermarket chain", "people buy food there."), "zh": ("超市", "人们在那里买食品。")},
    "video": {"en": ("video service", "people watch films on it."), "zh": ("视频网站", "人们在上面看视频。")},
    "music": {"en": ("music service", "people listen to songs on it."), "zh": ("音乐平台", "人们用它听歌。")},
    "chat": {"en": ("chat service", "people send messages with it."), "zh": ("聊天软件", "人们用它发消息。")},
    "search": {"en": ("search engine", "people look for pages with it."), "zh": ("搜索引擎", "人们用它查资料。")},
    "browser": {"en": ("web browser", "people open web pages with it."), "zh": ("浏览器", "人们用它打开网页。")},
    "payment": {"en": ("payment service", "people pay with it."), "zh": ("支付公司", "人们用它付款。")},
    "parcel": {"en": ("parcel service", "it brings parcels to the door."), "zh": ("快递公司", "它把包裹送到家门口。")},
    "aircraft": {"en": ("aircraft maker", "it builds large planes."), "zh": ("飞机公司", "它制造大型飞机。")},
    "fuel": {"en": ("oil company", "drivers buy fuel there."), "zh": ("石油公司", "司机在那里加油。")},
}
"""Kind of company -> language -> what it is called, and what everybody knows about such a company."""

CONTINENTS = {
    "asia": "亚洲",
    "europe": "欧洲",
    "africa": "非洲",
    "north america": "北美洲",
    "south america": "南美洲",
    "oceania": "大洋洲",
}

FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "name_logo": {"en": ("whose logo is this? answer:", "which company has this logo? answer:"), "zh": ("这是谁的标志？答：",)},
    "name_flag": {"en": ("which country has this flag? answer:", "whose flag is this? answer:"), "zh": ("这是哪个国家的国旗？答：",)},
    "fact_home": {"en": ("where does {name} come from? answer:", "which country is {name} from? answer:"), "zh": ("{name}是哪国的？答：",)},
    "fact_kind": {"en": ("what kind of company is {name}? answer:",), "zh": ("{name}是做什么的？答：",)},
    "fact_capital": {"en": ("what is the capital of {name}? answer:",), "zh": ("{name}的首都是哪里？答：",)},
    "fact_continent": {"en": ("on which continent is {name}? answer:",), "zh": ("{name}在哪个洲？答：",)},
    "tell": {"en": ("tell me about {name}.", "introduce {name}."), "zh": ("介绍一下{name}。", "请介绍{name}。")},
    "hop_home": {"en": ("where does the company with this logo come from? answer:",), "zh": ("有这个标志的公司是哪国的？答：",)},
    "hop_kind": {"en": ("what kind of company has this logo? answer:",), "zh": ("有这个标志的公司是做什么的？答：",)},
    "hop_capital": {"en": ("what is the capital of the country with this flag? answer:",), "zh": ("这面国旗的国家，首都是哪里？答：",)},
    "hop_continent": {"en": ("on which continent is the country with this flag? answer:",), "zh": ("这面国旗的国家在哪个洲？答：",)},
    "introduce_logo": {"en": ("whose logo is this? please introduce it.", "which logo is this? introduce the company."),
                       "zh": ("这是谁的标志？请介绍一下。", "这是哪家公司的标志？介绍一下它。")},
    "introduce_flag": {"en": ("whose flag is this? please introduce the country.",), "zh": ("这是哪个国家的国旗？请介绍一下。",)},
}  # fmt: skip
"""Form -> language -> wordings. `hop` and `introduce` need both hops."""

TWO_HOPS = ("hop_home", "hop_kind", "hop_capital", "hop_continent", "introduce_logo", "introduce_flag", "introduce_logo", "introduce_flag")
ONE_HOP = ("name_logo", "name_flag", "fact_home", "fact_kind", "fact_capital", "fact_continent", "tell", "name_logo", "name_flag", "tell")
"""What training draws from, besides `TWO_HOPS` of the things that are not held out; a form named twice comes twice as often."""
SHOWN = {"en": (" this is the logo of {name}.", " this is the flag of {name}."), "zh": ("这是{name}的标志。", "这是{name}的国旗。")}
ABOUT_BRAND = {"en": " {name} is {article} {kind} from {home}. {sense}", "zh": "{name}是{home}的{kind}。{sense}"}
ABOUT_COUNTRY = {"en": " {name} is a country in {continent}. its capital is {capital}.", "zh": "{name}是{continent}国家，首都是{capital}。"}
ANSWER = {"en": " {answer}.", "zh": "{answer}。"}

Sign = Brand | Country


def logo(world: World, random: np.random.Generator, side: int) -> Sample:
    """One of thirteen forms: name a logo or flag, tell a fact without a picture, or both in one."""
    language = draw_language(world, random)
    test = world.config.split == "test"
    two_hops = test or random.random() < 0.4
    form = choose(random, TWO_HOPS if two_hops else ONE_HOP)
    sign, answers = _sign(form, random, (_is_held_out if test else _is_seen) if two_hops else _any)
    name = _name(sign, language)
    segments: list[Segment] = []
    scenes = []
    if not form.startswith(("fact", "tell")):
        picture, scene = _picture(world, sign, random, side)
        segments.append(picture)
        scenes.append(scene)
    segments.append(choose(random, FORMS[form][language]).format(name=name))
    text = _text(form, sign, language)
    segments.append(text)
    truth = {
        "language": language,
        "form": form,
        "sign": sign.id if isinstance(sign, Brand) else sign.code,
        "answer": text.strip().rstrip(".。"),
        "answers": answers,
        "slots": _slots(form, sign, language),
        "held_out": _is_held_out(sign),
        "scenes": scenes,
    }
    return Sample("logo", tuple(segments), len(segments) - 1, truth)


def sentences() -> Iterator[str]:
    """Every text that this task is made of."""
    for wordings in FORMS.values():
        yield from (*wordings["en"], *wordings["zh"])
    for kind in KINDS.values():
        yield from (*kind["en"], *kind["zh"])
    for table in (ABOUT_BRAND, ABOUT_COUNTRY):
        yield from table.values()
    yield from (*SHOWN["en"], *SHOWN["zh"], *CONTINENTS, *CONTINENTS.values(), "an")
    for sign in _signs():
        yield from (sign.name_en, sign.name_zh)
        if isinstance(sign, Country):
            yield from (sign.capital_en, sign.capital_zh)


def _any(sign: Sign) -> bool:
    return True


def _is_held_out(sign: Sign) -> bool:
    """By its name: two drawings of one logo are one thing."""
    return fraction("sign", sign.name_en) < HELD_OUT


def _is_seen(sign: Sign) -> bool:
    return not _is_held_out(sign)


@lru_cache(maxsize=1)
def _signs() -> tuple[Sign, ...]:
    return (*brands(), *countries().values())


def _sign(form: str, random: np.random.Generator, allowed: Callable[[Sign], bool]) -> tuple[Sign, int]:
    """A sign that the form can ask about, and the number of equally likely answers: the answer is drawn first."""
    about_flags = form.endswith(("flag", "capital", "continent"))
    groups = _groups(form, allowed, brand=not about_flags)
    if form == "tell" and random.integers(2):
        groups = _groups(form, allowed, brand=False)
    return choose(random, choose(random, groups)), len(groups)


@lru_cache(maxsize=128)
def _groups(form: str, allowed: Callable[[Sign], bool], *, brand: bool) -> tuple[tuple[Sign, ...], ...]:
    """Signs grouped by the answer that the form asks for."""
    groups: dict[str, list[Sign]] = {}
    for sign in _signs():
        if isinstance(sign, Brand) == brand and allowed(sign):
            groups.setdefault(_answer(form, sign, "en"), []).append(sign)
    return tuple(tuple(members) for members in groups.values())


def _name(sign: Sign, language: Language) -> str:
    return sign.name_en if language == "en" else sign.name_zh


def _answer(form: str, sign: Sign, language: Language) -> str:
    """The short answer; for longer texts the name."""
    about = form.rpartition("_")[2]
    if isinstance(sign, Brand):
        if about == "home":
            return _name(countries()[sign.country], language)
        return KINDS[sign.kind][language][0] if about == "kind" else _name(sign, language)
    if about == "capital":
        return sign.capital_en if language == "en" else sign.capital_zh
    if about == "continent":
        return sign.continent if language == "en" else CONTINENTS[sign.continent]
    return _name(sign, language)


def _text(form: str, sign: Sign, language: Language) -> str:
    if not form.startswith(("tell", "introduce")):
        answer = _answer(form, sign, language)
        if form.endswith("kind") and language == "en":
            answer = f"{_article(answer)} {answer}"
        return ANSWER[language].format(answer=answer)
    name = _name(sign, language)
    shown = SHOWN[language][isinstance(sign, Country)].format(name=name) if form.startswith("introduce") else ""
    if isinstance(sign, Brand):
        kind, sense = KINDS[sign.kind][language]
        home = _name(countries()[sign.country], language)
        return shown + ABOUT_BRAND[language].format(name=name, article=_article(kind), kind=kind, home=home, sense=sense)
    continent, capital = (_answer(f"fact_{about}", sign, language) for about in ("continent", "capital"))
    return shown + ABOUT_COUNTRY[language].format(name=name, continent=continent, capital=capital)


def _slots(form: str, sign: Sign, language: Language) -> list[str]:
    """The words that a right text must contain."""
    if not form.startswith(("tell", "introduce")):
        return [_answer(form, sign, language)]
    about: Sequence[str] = ("home", "kind") if isinstance(sign, Brand) else ("continent", "capital")
    return [_name(sign, language), *(_answer(f"fact_{part}", sign, language) for part in about)]


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _picture(world: World, sign: Sign, random: np.random.Generator, side: int) -> tuple[np.ndarray, dict]:
    member = choose(random, sign.drawings)
    flag = isinstance(sign, Country)
    # A white ground is the usual one; others, where the logo can be seen on them.
    ground = 0 if random.random() < 0.6 else world.draw_ground(random)
    if not flag and not _visible(member, ground):
        ground = next(other for other in (0, 5, 1, 3) if _visible(member, other) or other == 3)
    size = 0.6 + 0.2 * random.uniform(-1, 1) * min(1.0, world.config.jitter)
    shift = random.uniform(-0.06, 0.06, 2) * world.config.jitter
    scene = {"drawing": member, "ground": ground, "size": round(size, 4), "centre": [round(0.5 + float(step), 4) for step in shift]}

    def draw() -> Image.Image:
        page = Image.new("RGB", (canvas.SIDE, canvas.SIDE), GROUNDS[ground].colour)
        shown = drawing(member)
        scale = size * canvas.SIDE / max(shown.size)
        shown = shown.resize((round(shown.width * scale), round(shown.height * scale)), Image.Resampling.BICUBIC)
        corner = tuple(round((0.5 + step) * canvas.SIDE - edge / 2) for step, edge in zip(shift, shown.size, strict=True))
        page.paste(shown, (corner[0], corner[1]), shown)
        if flag and not member.endswith("sticker.webp"):
            edge = (corner[0], corner[1], corner[0] + shown.width - 1, corner[1] + shown.height - 1)
            ImageDraw.Draw(page).rectangle(edge, outline=(120, 120, 120), width=2)
        return page

    return canvas.picture(side, draw), scene


@lru_cache(maxsize=1024)
def _visible(member: str, ground: int) -> bool:
    pixels = np.asarray(drawing(member), np.float32)
    mean = (pixels[..., :3] * pixels[..., 3:]).sum((0, 1)) / pixels[..., 3].sum()
    return bool(np.abs(mean - np.array(GROUNDS[ground].colour)).max() > CONTRAST)
