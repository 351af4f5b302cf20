"""The page: every dumped token with what it was rewarded. One HTML file, nothing fetched.

    python -m scripts.inspect page RUN --out page.html

RUN is a run's folder, its folder of dumps, or one dump.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from recipe.spro.dump import Dump
from recipe.spro.dump.file import DumpError
from scripts.files import write
from scripts.html_page import html_page
from scripts.inspect import packing
from scripts.inspect.sources import beside, load, parser_of

HERE = Path(__file__).parent
SCRIPTS = ("data.js", "colours.js", "plot.js", "text.js", "page.js")

# Colours have so many levels to each side.
LEVELS = 8

# Above it a page takes long to load: dumps are left out, evenly.
MAX_TOKENS = 5_000_000

TITLE = "What the process term rewards"

BODY = """<header><h1>{title}</h1><p class=about>{about}</p>{notes}</header>
<main>
<form id=controls onsubmit="return false" aria-label="What is shown">
<label class=slider for=step><span>Training step</span>
<input id=step type=range min=0 max={last} value={last} step=1>
<output id=step-name for=step></output></label>
<label for=group><span>Prompt</span><select id=group></select></label>
<fieldset id=by><legend>Colour</legend>{quantities}</fieldset>
<label for=scale><span>Scale</span><select id=scale><option value=group>of this prompt and step</option>
<option value=run>of the whole run</option></select></label>
<label for=order><span>Order</span><select id=order><option value=sides>side by side</option>
<option value=outcome>by reward</option><option value=cpr>by CPR at the end</option>
<option value=length>by length</option></select></label>
<label for=search><span>Search</span><input id=search type=search placeholder="text in these responses"
autocomplete=off><output id=hits for=search></output></label>
</form>
<p id=facts class=note></p>
<div id=legend aria-label="Legend"></div>
<figure id=curve><figcaption></figcaption><canvas tabindex=0 role=img></canvas></figure>
<div id=responses aria-live=off></div>
</main>
<details><summary>How to read this</summary><div class=help>{help}</div></details>
<script type="application/json" id=data>{data}</script>"""

NAMES = {
    "msa": "MSA",
    "cpr": "CPR",
    "log_ratio": "log-ratio",
    "advantages": "advantage",
    "old_log_probs": "log-prob",
}

HELP = """<ul>
<li><b>log-ratio</b> d: log-probability of the token under the policy that sampled, less that under the reference.
<b>CPR</b>: beta times the sum of d up to the token. <b>Baseline</b>: its mean over the responses of the prompt that are
still alive there (as the settings say). <b>MSA</b> M: CPR less the baseline. <b>Advantage</b>: what the token was
trained with; for SPRO outcome plus M.</li>
<li>Blue with a bar above: raised. Orange with a bar below: lowered. The taller the bar, the larger; a token without
either is near 0. Grey, struck tokens were not chosen by the policy (a tool wrote them) and count in nothing.</li>
<li>Outlined: a step of several tokens (line, sentence, turn); all of its tokens share one M.</li>
<li>The strip over a response is the whole of it; a click jumps there. Hover, tap, or focus a response and use
<kbd>←</kbd> <kbd>→</kbd> for a token's numbers.</li>
<li>Keys: <kbd>,</kbd> <kbd>.</kbd> training step, <kbd>[</kbd> <kbd>]</kbd> prompt, <kbd>1</kbd> to <kbd>5</kbd>
colour, <kbd>/</kbd> search, <kbd>Enter</kbd> and <kbd>Shift+Enter</kbd> next and previous hit.</li>
</ul>"""


def _betas(dumps: Sequence[Dump]) -> str:
    """The weight of the log-ratios; of the first and the last dump where it moved."""
    betas = [dump.meta.get("beta", dump.meta["settings"]["beta"]) for dump in (dumps[0], dumps[-1])]
    return " to ".join(f"{beta:g}" for beta in dict.fromkeys(betas))


def about(dumps: Sequence[Dump]) -> str:
    """One line: what trained, and with which process term."""
    meta = dumps[-1].meta
    settings = meta["settings"]
    words = [f"estimator {meta['estimator']}", f"beta {_betas(dumps)}", f"process {settings['process']}"]
    words += [f"baseline {settings['baseline']}", f"step {settings['step']}"]
    if settings["process_sign"] != 1:
        words.append("sign -1")
    if settings["max_process_share"] is not None:
        words.append(f"share at most {settings['max_process_share']:g}")
    if settings["gate_degenerate_groups"]:
        words.append("equal outcomes gated")
    steps = [dump.step for dump in dumps]
    where = f"step {steps[0]}" if len(steps) == 1 else f"{len(steps)} dumps, steps {steps[0]} to {steps[-1]}"
    return f"{', '.join(words)}. {where}."


def notes(dumps: Sequence[Dump], left_out: int) -> list[str]:
    """What a reader must know before trusting the numbers."""
    meta, found = dumps[-1].meta, []
    if meta["estimator"] not in ("spro", "spro_shuffled"):
        found.append(
            f"This run trained with {meta['estimator']}: CPR and MSA are what SPRO would have seen with these settings "
            "(without a bound), and only the advantage is what trained."
        )
    if meta["estimator"] == "spro_shuffled":
        found.append("The control: each response trained with the MSA of another one; shown is its own.")
    if meta["log_probs_dtype"] not in ("float32", "float64"):
        found.append(f"The log-probs are {meta['log_probs_dtype']}: CPR sums their rounding, and means little.")
    if left_out:
        found.append(f"{left_out} dumps are left out, evenly, to keep the page small (--max-tokens).")
    return found


def thinned(dumps: Sequence[Dump], max_tokens: int) -> list[Dump]:
    """Every second, third, ... dump, the last one always, so that at most so many tokens are left; at least one."""
    every, kept = 1, list(dumps)
    while len(kept) > 1 and sum(len(r.token_ids) for dump in kept for r in dump.responses) > max_tokens:
        every += 1
        kept = list(dumps[::-1][::every][::-1])
    return kept


def render(dumps: Sequence[Dump], max_tokens: int = MAX_TOKENS) -> str:
    """The whole page.

    Args:
        dumps: at least one, by training step.
        max_tokens: more are thinned out by training step.
    """
    kept = thinned(dumps, max_tokens)
    texts = packing.Texts()
    steps = [packing.pack_step(dump, texts) for dump in kept]
    meta = kept[-1].meta
    data: dict[str, Any] = {
        "quantities": packing.QUANTITIES,
        "names": NAMES,
        "levels": LEVELS,
        "quantile": packing.QUANTILE,
        "limits": packing.limits(kept),
        "settings": meta["settings"],
        "steps": steps,
        "texts": texts.listed(),
    }
    # No text of a model can end the element that holds it.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    said = notes(kept, len(dumps) - len(kept))
    body = BODY.format(
        title=escape(TITLE),
        about=escape(about(kept)),
        notes="".join(f"<p class=unequal role=note>{escape(note)}</p>" for note in said),
        last=len(kept) - 1,
        quantities="".join(
            f"<label><input type=radio name=by value={key}{' checked' if key == 'msa' else ''}>{escape(name)}</label>"
            for key, name in NAMES.items()
        ),
        help=HELP,
        data=text,
    )
    script = "".join((HERE / name).read_text() for name in SCRIPTS)
    return html_page(TITLE, body, style=(HERE / "page.css").read_text() + _levels(), script=script)


def _levels() -> str:
    """A class a level: colour by its share, and a bar above (p) or below (n) by its height."""
    rules = []
    for level in range(1, LEVELS + 1):
        share, height = 100 * level / LEVELS, f"{0.5 + 3 * level / LEVELS:.2f}px"
        for name, side in (("p", ""), ("n", "-")):
            colour = f"color-mix(in srgb, var(--{name}) {share:g}%, transparent)"
            rules.append(
                f".{name}{level} {{ background: {colour}; box-shadow: inset 0 {side}{height} var(--{name}-bar); }}"
            )
    return "\n".join(rules) + "\n"


def main(arguments: list[str]) -> int:
    """The command; 2 where there is no dump, with the reason and the fix on stderr."""
    parser = parser_of("page", __doc__, out="HTML file (default: inspect.html in RUN, or beside the dump)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="of the page (default %(default)s)")
    parsed = parser.parse_args(arguments)
    out = parsed.out or beside(parsed.run, "inspect.html")
    try:
        write(out, render(load(parsed.run), parsed.max_tokens).encode())
    except (DumpError, OSError) as error:
        print(f"inspect page: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0
