"""`harness study`: blind studies of the clips of a run, with people."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.arguments import Format, Plugins, Sets, load_plugins, path_named

if TYPE_CHECKING:
    from harness.study.make import Made, Plan

MOST_CONSENT = 80_000
"""Bytes of the text that raters agree to: four of each letter."""

app = typer.Typer(help="Ask people about clips, blind, and tally their votes.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="STUDY", help="The folder that `harness study new` made.")]


@app.command()
def new(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder whose clips are judged.")],
    pairs: Annotated[
        list[str] | None,
        typer.Option(metavar="A:B", help="Models to compare; or all, or reference. May be repeated; all unless given."),
    ] = None,
    questions: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Asked of two clips: adherence, coherence, dynamics, overall, or NAME=TEXT of your own.",
        ),
    ] = "adherence,coherence,dynamics,overall",
    ratings: Annotated[str, typer.Option(metavar="NAME,...", help="Asked of one clip, from 1 to 5.")] = "",
    section: Annotated[list[str] | None, typer.Option(help="Of the suite's `generate`; all unless given.")] = None,
    prompts: Annotated[int | None, typer.Option(min=1, help="So many of each section, drawn by the seed.")] = None,
    raters: Annotated[int, typer.Option(min=1, max=10_000, help="Who get a token each.")] = 20,
    each: Annotated[int, typer.Option(min=1, max=1000, help="Tasks of a rater, besides attention checks.")] = 30,
    repeats: Annotated[int, typer.Option(min=0, max=20, help="Of a rater's pairs come again, sides swapped.")] = 2,
    obvious: Annotated[int, typer.Option(min=0, max=20, help="Pairs with a clip that is plainly bad.")] = 2,
    ties: Annotated[bool, typer.Option(help="Whether `no difference` can be answered.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of every order and side.")] = 0,
    title: Annotated[str, typer.Option(help="As raters see it.")] = "A study of short videos",
    consent: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text that raters agree to before they start.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=path_named, metavar="DIR", help="Where to make it; `study` in RUN unless given."),
    ] = None,
) -> Iterator[str]:
    """Make a blind study of the clips of RUN."""
    from harness.runs.records import load_run
    from harness.study import design
    from harness.study.make import Plan, make

    plan = Plan(
        questions=design.questions(questions, ratings),
        pairs=pairs or ("all",),
        sections=section or (),
        prompts=prompts,
        raters=raters,
        each=each,
        repeats=repeats,
        obvious=obvious,
        ties=ties,
        seed=seed,
        title=_allowed("--title", title, 2000),
        consent=_consent(consent),
    )
    yield from _made(make(load_run(run), out or run / "study", plan), plan)


def _consent(file: Path | None) -> str:
    """The text that raters agree to. Raises `HarnessError`."""
    from harness.errors import HarnessError
    from harness.study import design
    from harness.system.files import read_limited, reason

    try:
        text = read_limited(file, MOST_CONSENT).decode() if file else design.CONSENT
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"--consent {file} cannot be read: {reason(error)}") from error
    return _allowed("--consent", text, 20_000)


def _allowed(option: str, text: str, most: int) -> str:
    from harness.errors import HarnessError

    if not 1 <= len(text.strip()) <= most:
        raise HarnessError(f"{option}: the text has {len(text.strip()):,} letters, and 1 to {most:,} are allowed")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise HarnessError(f"{option}: the text is no UTF-8", "write it in UTF-8")
    return text.strip()


def _made(made: Made, plan: Plan) -> Iterator[str]:
    """What was made, and what comes next."""
    from harness.study.design import RATERS

    study = made.study
    counted = [item for item in study.items if not any(study.clips[number].arm < 0 for number in item.clips)]
    dealt = plan.raters * min(plan.each, len(counted)) / len(counted)
    what = {1: "clips", 2: "pairs of clips"}
    counts = {size: sum(len(item.clips) == size for item in counted) for size in (2, 1)}
    judged = " and ".join(f"{count:,} {what[size]}" for size, count in counts.items() if count)
    yield f"study: {made.folder} ({judged} of {len(study.arms)} models on {len(study.prompts):,} prompts)"
    count = len(study.sequences[0])
    tasks = f"{count} task{'s' * (count != 1)} each"
    yield f"raters: {plan.raters:,}, with {tasks}; a pair or clip is seen {dealt:.1f} times"
    for reason, count in made.left_out.items():
        yield f"left out, {count:,} times: {reason}"
    yield f"tokens: {made.folder / RATERS}"
    yield f"next:   harness study serve {made.folder}, or harness study export {made.folder}"


@app.command()
def serve(
    study: Folder,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need --name.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="By which raters reach it, as behind a proxy. May be repeated."),
    ] = None,
    rate: Annotated[float, typer.Option(min=1, help="Votes of a rater in a minute, at most.")] = 60,
) -> Iterator[str]:
    """Serve STUDY to its raters until stopped: on this machine alone, unless --host says otherwise."""
    from harness.errors import HarnessError
    from harness.study.design import RATERS, load
    from harness.study.serve import LOOPBACK, application, listening, run
    from harness.study.votes import Ballots

    if host not in (*LOOPBACK, "::1") and not name:
        raise HarnessError(
            f"--host {host} lets other machines in", "say by which name with --name HOST; TLS is left to a proxy"
        )
    body = load(study)
    with Ballots(study, body) as ballots, listening(host, port) as opened:
        answering = application(
            study, body, ballots, hosts=(*LOOPBACK, *map(str.lower, name or ())), votes_a_minute=rate
        )
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{opened.getsockname()[1]}/"
        yield f"serving: {address} (Ctrl+C ends it)"
        yield f"links:   {address}#TOKEN, with the tokens of {study / RATERS}"
        sys.stdout.flush()
        run(answering, opened)


@app.command()
def export(
    study: Folder,
    out: Annotated[
        Path | None, typer.Option(parser=path_named, metavar="DIR", help="`static` in STUDY unless given.")
    ] = None,
) -> Iterator[str]:
    """Write STUDY as a folder for places without a server; its page saves votes to a file."""
    from harness.study.design import RATERS, load
    from harness.study.export import export as write

    index = write(study, load(study), out or study / "static")
    yield f"page: {index}, opened as {index.name}#TOKEN with the tokens of {study / RATERS}"
    yield f"next: harness study tally {study} VOTES..."


@app.command()
def judge(
    study: Folder,
    name: Annotated[str, typer.Option(help="Of the judge, in tables.")] = "model",
    set_: Sets = None,
) -> Iterator[str]:
    """Let a model answer the questions of STUDY, as one more rater, whose agreement with people the tally shows."""
    from rich.console import Console

    from harness.cli.arguments import options_of
    from harness.contracts.registry import check_options
    from harness.metrics.judge_client import JudgeOptions
    from harness.study.design import load
    from harness.study.judges import judge as ask

    options = check_options("the judge", JudgeOptions, options_of(set_))
    assert isinstance(options, JudgeOptions)
    with Console(stderr=True).status("asking") as status:
        judged = ask(study, load(study), options, name, lambda done, of: status.update(f"asking: {done} of {of}"))
    for reason, count in judged.failed.items():
        yield f"no answer, {count:,} times: {reason}"
    if not judged.answered:
        raise typer.Exit(1)
    yield f"judge: {judged.file} ({judged.answered:,} pairs or clips)"


@app.command()
def tally(
    study: Folder,
    votes: Annotated[
        list[Path] | None, typer.Argument(metavar="VOTES...", help="Files that raters saved where there was no server.")
    ] = None,
    keep_careless: Annotated[
        bool, typer.Option("--keep-careless", help="Count raters who failed half of their obvious pairs, too.")
    ] = False,
    format_: Annotated[Format | None, typer.Option("--format", help="Of what is printed.")] = None,
    plugin: Plugins = None,
) -> Iterator[str]:
    """Count the votes of STUDY: show what they say, and leave it beside the run's records for its tables and page."""
    from harness.cli.table import drawn
    from harness.errors import RecordError
    from harness.report import people_tables
    from harness.runs.people import write_people
    from harness.runs.records import Run, load_run
    from harness.study.design import load
    from harness.study.judges import read
    from harness.study.tally import tally as count
    from harness.study.votes import collect

    load_plugins(plugin)
    body = load(study)
    counted = collect(study, body, votes or ())
    run: Run | None = None
    try:
        run = load_run(study / body.run)
    except RecordError as error:
        counted.remarks.append(f"The run is gone, so nothing is said of its metrics: {error.message}.")
    people = count(body, counted, run, judges=read(study, body), keep_careless=keep_careless)
    labels = [arm.label for arm in run.arms] if run else body.arms
    yield from drawn(people_tables.of(people, labels, run.suite.reference if run else ""), format_)
    yield f"tally: {write_people(run.folder if run else study, people)}"
