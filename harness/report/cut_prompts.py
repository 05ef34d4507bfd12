"""Tell of prompts that are longer than a metric reads, so that two which differ only after that score alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from harness.contracts import registry
from harness.contracts.metric import token_limit, tokens_left_out
from harness.report.view import AnySection, View
from harness.runs.plan import Group


def remarks(section: str, groups: Iterable[tuple[View, AnySection, Group]]) -> Iterator[str]:
    """A sentence for the metric of `groups` where it left out tokens of prompts; one record of each prompt is read.

    How many it reads stands in the record, as networks of one metric differ in it.
    """
    longer: set[str] = set()
    prompts: set[str] = set()
    limits: set[int] = set()
    name = ""
    for view, of, group in groups:
        name = group.plugin
        usual = registry.metrics.get(name).reads_tokens if group.kind == "score" else 0
        if not usual:
            return
        samples = view.samples(of, group)
        first = dict(zip(samples.prompts[::-1].tolist(), samples.places[::-1].tolist(), strict=True))
        for place in first.values():
            record = view.records.at(view.run.index[group.keys[place]].offset)
            prompts.add(text := str(record.context.get("prompt", "")))
            if tokens_left_out(record.samples, usual):
                longer.add(text)
                limits.add(int(token_limit(record.samples, usual)))
    if longer:
        read = " or ".join(map(str, sorted(limits)))
        yield (
            f"{section}: {len(longer)} of {len(prompts)} clips' prompts are longer than the {read} tokens that {name} "
            "reads; what differs only after those changes no score."
        )
