"""The page that raters see: one file with its script and style, served or opened from the disk.

Its policy lets in no script but its own, by digest, and nothing from elsewhere. It names no arm, metric or file: clips
have names that say nothing, and what a pair is about stays with the study.
"""

from __future__ import annotations

import base64
from importlib.resources import files as resources
from typing import Any

from markupsafe import Markup

from harness.errors import RecordError
from harness.study.design import LEFT, MEDIA, RIGHT, SCALE, TIE, Study
from harness.study.votes import FORMAT
from harness.system.digests import digest

MOST_LETTERS = 64_000_000
"""Of tasks that a browser is sent in one piece."""
PER_TASK = 160
"""Letters of a task besides its texts: the names of two clips, and what stands between."""


def tasks(study: Study, rater: int) -> list[dict[str, Any]]:
    """The tasks of a rater as the page takes them: clips, prompt, and questions by column."""
    prepared = []
    for task in study.tasks(rater):
        shown = study.shown(task)
        asked = [[question.column, question.kind, question.text] for question in study.asked(study.items[task.item])]
        clips = [f"{MEDIA}/{clip.media}" for clip in shown]
        prepared.append({"clips": clips, "prompt": study.prompts[shown[0].prompt], "questions": asked})
    return prepared


def _check_size(study: Study, *, served: bool) -> None:
    """Raise `RecordError` where the tasks that go out together, of a rater or of all, are too long for a browser."""
    by_item = [
        PER_TASK
        + max(len(study.prompts[study.clips[number].prompt]) for number in item.clips)
        + sum(len(question.column) + len(question.text) for question in study.asked(item))
        for item in study.items
    ]
    by_rater = [sum(by_item[task[0]] for task in tasks) for tasks in study.sequences]
    letters = max(by_rater, default=0) if served else sum(by_rater)
    if letters > MOST_LETTERS:
        whose = "one rater" if served else "all raters"
        raise RecordError(
            f"the tasks of {whose} have {letters:,} letters, and a browser is sent at most {MOST_LETTERS:,}",
            "ask about fewer prompts or shorter ones" if served else "harness study serve sends a rater's own alone",
        )


def policy(script: str, style: str, origin: str) -> str:
    """The Content-Security-Policy of the page; `origin` is where media and answers come from."""
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; media-src {origin}; connect-src {origin}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def render(study: Study, *, served: bool) -> tuple[str, str]:
    """The page and its policy. One that is not served holds the tasks of every rater, and saves votes to a file.

    Raises `RecordError` for a study whose tasks are too long.
    """
    from jinja2 import Environment, StrictUndefined

    _check_size(study, served=served)
    here = resources(__package__)
    script, style, source = ((here / f"study.{end}").read_text(encoding="utf-8") for end in ("js", "css", "html"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    data: dict[str, Any] = {
        "study": study.id,
        "format": FORMAT,
        "choices": [[LEFT, "A"], *([[TIE, "no difference"]] if study.ties else []), [RIGHT, "B"]],
        "scale": SCALE,
        "served": served,
    }
    if not served:
        data["raters"] = [tasks(study, rater + 1) for rater in range(len(study.sequences))]
    said = policy(_digest(script), _digest(style), "'self'" if served else "'self' file:")
    page = environment.from_string(source).render(
        policy=said,
        data=data,
        script=Markup(script),
        style=Markup(style),
        title=study.title,
        consent=study.consent.splitlines(),
    )
    return page, said


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(bytes.fromhex(digest(text))).decode()}"
