"""The page that raters see: one file with its script and style, served or opened from the disk.

Its policy lets in no script but its own, by digest, and nothing from elsewhere. It names no arm, metric or file: clips
have names that say nothing, and what a pair is about stays with the study.
"""

from __future__ import annotations

import base64
from importlib.resources import files as resources
from typing import Any

from markupsafe import Markup

from harness.study.design import LEFT, MEDIA, RIGHT, SCALE, TIE, Study
from harness.study.votes import FORMAT
from harness.system.digests import digest


def tasks(study: Study, rater: int) -> list[dict[str, Any]]:
    """The tasks of a rater as the page takes them: clips, prompt, and questions by column."""
    prepared = []
    for task in study.tasks(rater):
        shown = study.shown(task)
        asked = [[question.column, question.kind, question.text] for question in study.asked(study.items[task.item])]
        clips = [f"{MEDIA}/{clip.media}" for clip in shown]
        prepared.append({"clips": clips, "prompt": study.prompts[shown[0].prompt], "questions": asked})
    return prepared


def policy(script: str, style: str, origin: str) -> str:
    """The Content-Security-Policy of the page; `origin` is where media and answers come from."""
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; media-src {origin}; connect-src {origin}; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def render(study: Study, *, served: bool) -> tuple[str, str]:
    """The page and its policy. One that is not served holds the tasks of every rater, and saves votes to a file."""
    from jinja2 import Environment, StrictUndefined

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
