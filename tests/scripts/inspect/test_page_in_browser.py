"""The page in a real browser: light and dark, wide and narrow, by mouse and by keyboard, and at its full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe.spro.dump import Dump, Response, read_dump, step_files
from tests.scripts.browser import NEEDS_CHROMIUM, opened
from tests.scripts.inspect.conftest import STEPS, page_of

pytestmark = NEEDS_CHROMIUM

# Milliseconds that showing 16 responses of 4,096 tokens may take, layout included, on a machine that does other things
# too. Measured with nothing beside it: see scripts/inspect/README.md.
SHOW_MS, REPAINT_MS = 1500, 500

# Of each text with what is behind it, as WCAG defines it; a token's own background may be half transparent.
TOKEN_CONTRAST = """() => {
  const parse = (colour) => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    const scale = colour.startsWith("color(") ? 1 : 255;
    return { rgb: numbers.slice(0, 3).map((value) => value / scale), alpha: numbers[3] ?? 1 };
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const body = parse(getComputedStyle(document.body).backgroundColor).rgb;
  const texts = "[data-at], h1, h2, p, figcaption, article > header, #legend span, label";
  return [...document.querySelectorAll(texts)].map((element) => {
    const style = getComputedStyle(element), own = parse(style.backgroundColor);
    const behind = light(body.map((value, at) => own.alpha * own.rgb[at] + (1 - own.alpha) * value));
    const front = light(parse(style.color).rgb);
    return [element.textContent, (Math.max(front, behind) + 0.05) / (Math.min(front, behind) + 0.05)];
  });
}"""


def shown(browser: Any, run: Path, scheme: str = "light", width: int = 1400) -> tuple[Any, list[str]]:
    page, wrong = opened(browser, page_of(run).as_uri(), scheme, width)
    page.wait_for_function("state.views.length > 0")
    return page, wrong


def dump_of(run: Path, step: int) -> Dump:
    return read_dump(step_files(run / "dump")[step])


def response_of(run: Path, step: int, number: int = 0) -> Response:
    """Of the first prompt, by the number that the page gives it, less 1."""
    return next(iter(dump_of(run, step).groups().values()))[number]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_it_fits_and_is_legible(browser: Any, run: Path, scheme: str, width: int, tmp_path: Path) -> None:
    page, wrong = shown(browser, run, scheme, width)
    inside, outside = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert inside <= outside == width
    assert page.get_by_role("heading", name="What the process term rewards").is_visible()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(", "))) < 200) == (scheme == "dark")
    page.evaluate("state.views.forEach((view) => view.blocks.forEach((block) => view.fill(block)))")
    contrasts = page.evaluate(TOKEN_CONTRAST)
    assert len(contrasts) > 150
    assert [(text, ratio) for text, ratio in contrasts if ratio < 4.5] == []
    # Right beside wrong, where there is room.
    columns = [section.bounding_box() for section in page.locator("#responses > section").all()]
    assert len(columns) == 2
    assert (columns[0]["y"] == columns[1]["y"]) == (width == 1400)
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert wrong == []
    page.context.close()


def test_a_tokens_numbers_are_the_dumps(browser: Any, run: Path) -> None:
    page, wrong = shown(browser, run)
    response = response_of(run, STEPS[-1], 2)
    article = page.get_by_role("group", name="response 3, ")
    at = 4
    article.locator(f'[data-at="{at}"]').hover()
    tip = page.locator("#tip").inner_text()
    assert f"position {at} of {len(response.token_ids)} · id {response.token_ids[at]}" in tip

    def number(x: float) -> str:
        return f"{'+' if x > 0 else '−'}{abs(float(f'{x:.3g}')):g}"

    for name, value in (
        ("log-ratio", response.log_ratio[at]),
        ("CPR", response.cpr[at]),
        ("MSA", response.msa[at]),
        ("baseline", response.baseline[at]),
        ("outcome", response.outcome_advantage),
    ):
        assert f"{name} {number(value)}" in tip
    assert "alive here: 4 of 4" in tip
    # It leaves with the pointer.
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()
    # What every token shows, decoded, is what the dump holds, to the precision of the page.
    decoded = page.evaluate("state.group.responses.map((row) => [...row.values.msa])")
    for got, want in zip(decoded, next(iter(dump_of(run, STEPS[-1]).groups().values())), strict=True):
        np.testing.assert_allclose(got, want.msa, atol=2e-5 * float(np.abs(want.msa).max()))
    assert wrong == []
    page.context.close()


def test_the_colours_follow_the_quantity_and_say_the_sign_twice(browser: Any, run: Path) -> None:
    page, wrong = shown(browser, run)
    values = {"MSA": "msa", "CPR": "cpr", "log-ratio": "log_ratio", "log-prob": "old_log_probs"}
    response = response_of(run, STEPS[-1])
    tokens = page.get_by_role("group", name="response 1, ").locator("[data-at]")
    seen = set()
    for name, field in values.items():
        page.get_by_text(name, exact=True).first.click()
        assert page.locator("#legend .name").inner_text().strip() == name
        classes = tokens.evaluate_all("tokens => tokens.map((token) => token.className)")
        for kind, value in zip(classes, getattr(response, field), strict=True):
            assert kind == "" or (kind[0] == "p") == (value > 0)
        assert any(classes)
        seen.add(tuple(classes))
        # Not colour alone: a bar at another edge.
        shadows = tokens.evaluate_all("tokens => tokens.map((token) => getComputedStyle(token).boxShadow)")
        for kind, shadow in zip(classes, shadows, strict=True):
            assert (shadow == "none") == (kind == "")
            if kind:
                assert (" -" in shadow) == (kind[0] == "n")
    assert len(seen) == len(values)
    # The advantage is 0 in this run, and the page says so.
    page.get_by_text("advantage", exact=True).first.click()
    assert page.locator("#legend").inner_text() == "advantage is 0 at every token here."
    assert wrong == []
    page.context.close()


def test_the_slider_moves_through_training(browser: Any, run: Path) -> None:
    page, wrong = shown(browser, run)
    slider = page.get_by_role("slider")
    assert page.locator("#step-name").inner_text() == f"step {STEPS[-1]} (3 of 3)"
    curve = page.locator("#curve canvas")
    before = curve.screenshot()
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_function(f"state.step.step === {STEPS[0]}")
    assert slider.get_attribute("aria-valuetext") == f"step {STEPS[0]}"
    response = page.get_by_role("group", name="response 1, ")
    # The text is drawn a frame after the state has changed.
    response.filter(has_text="step 0.").wait_for()
    assert response.inner_text().startswith("step 0.")
    ids = page.evaluate("[...state.group.responses[0].ids]")
    assert ids == response_of(run, STEPS[0]).token_ids.tolist()
    assert curve.screenshot() != before
    # The scale of the whole run lets the growth be seen.
    page.locator("#scale").select_option("run")
    assert page.evaluate("state.palette.largest === DATA.limits.msa")
    page.keyboard.press(".")
    page.wait_for_function(f"state.step.step === {STEPS[1]}")
    assert wrong == []
    page.context.close()


def test_search_finds_across_tokens(browser: Any, run: Path) -> None:
    page, wrong = shown(browser, run)
    page.keyboard.press("/")
    page.keyboard.type("3+4=7")
    expected = sum(b"".join(r.pieces).count(b"3+4=7") for r in next(iter(dump_of(run, STEPS[-1]).groups().values())))
    assert page.locator("#hits").inner_text() == f"1 of {expected}"
    assert page.locator("[data-at].hit").count() == 5 * expected
    page.keyboard.press("Enter")
    assert page.locator("#hits").inner_text() == f"2 of {expected}"
    assert page.locator("[data-at].current").count() == 1
    assert page.locator("#tip").is_visible()
    page.locator("#search").fill("nowhere")
    assert page.locator("#hits").inner_text() == "0 hits"
    assert page.locator("[data-at].hit").count() == 0
    assert wrong == []
    page.context.close()


def test_the_keyboard_reaches_everything(browser: Any, run: Path) -> None:
    page, wrong = shown(browser, run)
    article = page.get_by_role("group", name="response 1, ")
    article.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "position 1 of" in page.locator("#tip").inner_text() or "position 2 of" in page.locator("#tip").inner_text()
    page.keyboard.press("End")
    last = len(response_of(run, STEPS[-1]).token_ids) - 1
    assert f"position {last} of" in page.locator("#tip").inner_text()
    page.keyboard.press("2")
    assert page.locator("input[name=by]:checked").get_attribute("value") == "cpr"
    page.keyboard.press("]")
    assert page.locator("#group").input_value() == "1"
    page.keyboard.press("[")
    assert page.locator("#group").input_value() == "0"
    for order in ("outcome", "cpr", "length"):
        page.locator("#order").select_option(order)
        assert page.locator("#responses > section").count() == 1
        assert page.locator("article").count() == 4
    lengths = page.evaluate("state.views.map((view) => view.row.tokens)")
    assert lengths == sorted(lengths, reverse=True)
    assert wrong == []
    page.context.close()


def test_the_curve_is_the_baseline(browser: Any, run: Path) -> None:
    page, wrong = shown(browser, run)
    group = next(iter(dump_of(run, STEPS[-1]).groups().values()))
    curve = page.evaluate("state.curves.mean.map(({ x, y, alive }) => [x, y, alive])")
    for x, y, alive in curve:
        here = [r.cpr[x] for r in group if len(r.cpr) > x]
        assert alive == len(here)
        assert y == pytest.approx(np.mean(here), abs=1e-4)
    box = page.locator("#curve canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    assert "baseline" in page.locator("#tip").inner_text()
    assert wrong == []
    page.context.close()


def test_wider_steps_are_outlined_and_a_tools_words_struck(browser: Any, run_of_turns: Path) -> None:
    page, wrong = shown(browser, run_of_turns)
    article = page.get_by_role("group", name="response 1, ")
    assert article.locator(".step").count() == 2
    struck = article.locator(".masked")
    assert [int(token.get_attribute("data-at")) for token in struck.all()] == [7, 8, 9, 10, 11]
    struck.first.hover()
    assert "not chosen by the policy" in page.locator("#tip").inner_text()
    article.locator('[data-at="14"]').hover()
    assert "step 1" in page.locator("#tip").inner_text()
    # All tokens of a step share one M.
    kinds = article.locator(".step").first.locator("[data-at]").evaluate_all("all => all.map((one) => one.className)")
    assert len({kind.replace("current", "").strip() for kind in kinds}) == 1
    assert wrong == []
    page.context.close()


def test_hostile_text_stays_text(browser: Any, run: Path, tmp_path: Path) -> None:
    from recipe.spro.dump.file import write_dump

    dump = dump_of(run, STEPS[0])
    evil = b'</script><img src=x onerror="window.hacked=1"><!--'
    response = dump.responses[0]
    response.pieces[0] = evil
    object.__setattr__(response, "prompt", evil.decode())
    object.__setattr__(response, "extracted", evil.decode())
    write_dump(tmp_path / "dump", dump)
    page, wrong = shown(browser, tmp_path)
    assert evil.decode() in page.get_by_role("group", name="response 1, ").inner_text()
    assert any(f"answer {evil.decode()}" in text for text in page.locator("article").all_inner_texts())
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert wrong == []
    page.context.close()


@pytest.mark.alone
def test_sixteen_responses_of_4096_tokens_without_lag(browser: Any, large_run: Path) -> None:
    page, wrong = shown(browser, large_run)
    assert page_of(large_run).stat().st_size < 4_000_000
    assert page.evaluate("state.views.length") == 16
    took = {"first": page.evaluate("timing.show")}
    # Most of the tokens wait until they are looked at.
    assert page.locator("[data-at]").count() < 16 * 4096 / 2
    page.locator("#step").fill("0")
    page.wait_for_function(f"state.step.step === {STEPS[0]}")
    took["step"] = page.evaluate("timing.show")
    page.keyboard.press("3")
    took["colour"] = page.evaluate("timing.repaint")
    print({name: f"{value:.0f} ms" for name, value in took.items()})
    assert max(took["first"], took["step"]) < SHOW_MS
    assert took["colour"] < REPAINT_MS
    # The end of a response is there when it is scrolled to.
    article = page.get_by_role("group", name="response 1, ")
    article.evaluate("element => { element.scrollTop = element.scrollHeight; }")
    article.locator('[data-at="4095"]').wait_for()
    page.locator("#search").fill("then x = 4,")
    assert page.locator("#hits").inner_text().startswith("1 of 1")
    assert wrong == []
    page.context.close()
