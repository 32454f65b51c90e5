"""What the documentation names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for folder in (".", "docs", "docs/guides", "src/mm_interleaved/box/nano") for path in (ROOT / folder).glob("*.md"))
NAMED = re.compile(r"(?<![\w/.…-])((?:recipes|scripts|benchmarks|tests|docs|src)/[\w./-]+\.(?:yaml|py|md|sh|json|png))")
CODE = re.compile(r"```.*?```|^    .*?$", re.DOTALL | re.MULTILINE)
LINKED = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_or_links_exists(page):
    text = page.read_text(encoding="utf-8")
    named = [ROOT / name for name in NAMED.findall(text)]
    linked = [page.parent / name for name in LINKED.findall(CODE.sub("", text))]
    missing = [str(path) for path in named + linked if not path.exists()]
    assert not missing


def test_a_recipe_says_only_where_files_are_that_exist():
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    missing = [name for recipe in recipes for name in NAMED.findall(recipe.read_text(encoding="utf-8")) if not (ROOT / name).exists()]
    assert recipes and not missing
