"""The contracts: what a model, a metric and a probe must give. Read this package first.

A model streams chunks of pixels; a metric turns one clip into numbers; a probe drives a live model. The harness
owns seeds, files, clocks and retries. Constructing any of the three is cheap, imports no heavy package and touches no
device, so that a plan can be made on a machine without torch.
"""

from __future__ import annotations

from harness.contracts import registry as registry
from harness.contracts.base import PATH_SCHEMA, Availability, Direction, FilePath, Frames, Json, Options, PathRule
from harness.contracts.metric import Clip, Curve, CurveKind, Metric, Value
from harness.contracts.model import (
    COUNTING,
    PREFIX_RULE,
    SPAN_NAMES,
    Agreement,
    ClipFile,
    ClipState,
    FlopCounter,
    ModelCard,
    Prefix,
    ProcessState,
    Request,
    Spans,
    Switch,
    TimedSpans,
    VideoModel,
    counted_as,
    no_spans,
    pixels_alone,
)
from harness.contracts.probe import (
    DRAWN_FROM,
    Audit,
    AuditVerdict,
    Measurement,
    NotHeld,
    Probe,
    ProbeContext,
    ProbePlot,
    ProbeTable,
    Product,
    Subject,
    Workload,
)

__all__ = [
    "COUNTING",
    "DRAWN_FROM",
    "PATH_SCHEMA",
    "PREFIX_RULE",
    "SPAN_NAMES",
    "Agreement",
    "Audit",
    "AuditVerdict",
    "Availability",
    "Clip",
    "ClipFile",
    "ClipState",
    "Curve",
    "CurveKind",
    "Direction",
    "FilePath",
    "FlopCounter",
    "Frames",
    "Json",
    "Measurement",
    "Metric",
    "ModelCard",
    "NotHeld",
    "Options",
    "PathRule",
    "Prefix",
    "Probe",
    "ProbeContext",
    "ProbePlot",
    "ProbeTable",
    "ProcessState",
    "Product",
    "Request",
    "Spans",
    "Subject",
    "Switch",
    "TimedSpans",
    "Value",
    "VideoModel",
    "Workload",
    "counted_as",
    "no_spans",
    "pixels_alone",
]
