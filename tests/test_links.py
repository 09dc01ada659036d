"""The bridge that makes every folder `weft.<folder>`, and the links between the pages."""

import os
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.repository import FOLDERS, ROOT, files, git, name

BRIDGE = ROOT / "src" / "weft"
LINK_MODE = "120000"
PAGES = [path for path in files() if path.suffix == ".md"]

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
TARGETS = re.compile(
    r"""\]\(\s*<?([^)\s>]+)>?(?:\s+["'][^)]*)?\)"""  # [text](target "title")
    r"""|^\s*\[[^\]]+\]:\s*(\S+)"""  # [name]: target
    r"""|(?:href|src)=["']([^"']+)["']""",  # <img src="target">
    re.MULTILINE,
)
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)
ELSEWHERE = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:|^//")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_bridge_is_one_relative_link_a_folder(folder: str) -> None:
    link = BRIDGE / folder
    assert link.is_symlink(), f"{link} is no link: a checkout without them? see CONTRIBUTING.md"
    assert Path(os.readlink(link)) == Path("..", "..", folder)
    assert link.resolve(strict=True) == ROOT / folder


def test_the_bridge_has_no_link_besides() -> None:
    assert sorted(path.name for path in BRIDGE.iterdir() if path.is_symlink()) == sorted(FOLDERS)


def test_the_bridge_is_committed_as_links() -> None:
    staged = git("ls-files", "--stage", "src/weft")
    if not staged:
        pytest.skip("no git checkout here: nothing says how the links are committed")
    modes = {line.split("\t")[1]: line.split()[0] for line in staged}
    assert {modes.get(f"src/weft/{folder}") for folder in FOLDERS} == {LINK_MODE}


def targets(page: str) -> list[str]:
    """What a page links to on this side of the network, code samples left out."""
    text = CODE.sub("", FENCE.sub("", page))
    found = ["".join(groups) for groups in TARGETS.findall(text)]
    return [target for target in found if not ELSEWHERE.match(target)]


def anchors(page: str) -> set[str]:
    """The names of a page's headings, as forges make them: `## A b!` is `a-b`."""
    seen: Counter[str] = Counter()
    names = set(re.findall(r"""<\w+[^>]*\s(?:id|name)=["']([^"']+)["']""", page))
    for heading in HEADING.findall(FENCE.sub("", page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        names.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return names


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere, or out of the repository."""
    return [
        target
        for target in targets(page.read_text(encoding="utf-8"))
        if not leads_somewhere(page, *target.partition("#")[::2])
    ]


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    """Whether a file (or this page) is there, inside the repository, with that heading."""
    there = (page.parent / path).resolve() if path else page
    if not there.exists() or not there.is_relative_to(page_root(page)):
        return False
    return not anchor or there.suffix != ".md" or anchor in anchors(there.read_text("utf-8"))


def page_root(page: Path) -> Path:
    """The repository of a page; a page elsewhere (planted by a test) has its folder."""
    return ROOT if page.is_relative_to(ROOT) else page.parent


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_of_a_page_resolves(page: Path) -> None:
    assert broken(page) == []


def test_there_are_pages_to_check() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md"} <= {name(page) for page in PAGES}


def test_planted_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One two: *three*\n## One two: three\n```\n# no\n```\n")
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#one-two-three-1) [c](#here) ![d](other.md 'title')"
    far = "[e](https://x.org/no) [f](mailto:a@x.org) `[g](no.md)`\n```\n[h](no.md)\n```\n"
    page.write_text(f"# Here\n{good} {far}")
    assert broken(page) == []
    page.write_text(
        "[a](no.md) [b](other.md#no) [c](#gone) <img src='no.svg'>\n[r]: no/r.md\n[d](../page.md)\n"
    )
    assert broken(page) == ["no.md", "other.md#no", "#gone", "no.svg", "no/r.md", "../page.md"]
