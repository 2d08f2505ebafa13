"""The configuration: frozen, checked when it is loaded, every error with the path of its field."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from streamgauge.detectors.errors import StreamgaugeError
from streamgauge.detectors.kinds import KINDS
from streamgauge.stream.config_errors import explain
from streamgauge.stream.contracts import Approval
from streamgauge.stream.records import TopicRole
from streamgauge.stream.signals.names import signal_names

C = TypeVar("C", bound="CoreConfig")

Task = Literal["classification", "regression"]

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# So many digits that no duration overflows.
_DURATION = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h|d)", re.ASCII)


class ConfigError(StreamgaugeError, ValueError):
    """The configuration cannot be used; the message names the field and the fix."""


def duration_ms(value: object) -> int:
    """Return a duration such as `500ms`, `30s`, `5m`, `2h`, `7d` in milliseconds.

    >>> duration_ms("1.5s")
    1500

    Raises:
        ValueError: not a duration.
    """
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"a duration is a number and ms, s, m, h or d (`30s`), got {value!r}")
    return round(float(match[1]) * _UNITS_MS[match[2]])


def duration_text(value_ms: int) -> str:
    """Milliseconds as the shortest whole duration.

    >>> duration_text(7_200_000)
    '2h'
    """
    for unit, size in reversed(_UNITS_MS.items()):
        if value_ms % size == 0 and (value_ms or unit == "s"):
            return f"{value_ms // size}{unit}"
    return f"{value_ms}ms"


# A duration in the file is text; in the program it is whole milliseconds.
DurationMs = Annotated[
    int,
    BeforeValidator(duration_ms),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^\d{1,15}(\.\d{1,15})?(ms|s|m|h|d)$"}),
]


class Section(BaseModel):
    """A part of a configuration: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Topics(Section):
    """Names of the topics, by role."""

    predictions: str = "predictions"
    labels: str = "labels"
    metrics: str = "drift-metrics"
    alarms: str = "drift-alarms"
    retrain: str = "retrain-requests"
    status: str = "retrain-status"
    dead_letters: str = "dead-letters"

    @model_validator(mode="after")
    def _distinct(self) -> Topics:
        names = list(self.names().values())
        if len(set(names)) < len(names):
            raise ValueError("each topic needs a name of its own")
        return self

    def name_of(self, role: TopicRole) -> str:
        """Return the name of the topic with this role."""
        name: str = getattr(self, role)
        return name

    def names(self) -> dict[TopicRole, str]:
        """Return the names of all topics, by role."""
        return {role: self.name_of(role) for role in get_args(TopicRole)}


class EventLimits(Section):
    """The limits beyond which an event is refused."""

    features_max: int = Field(1000, ge=0)
    segments_max: int = Field(20, ge=0)
    bytes_max: int = Field(1_000_000, ge=100, description="of one record's value")
    ahead_max: DurationMs = Field(
        "5m",  # type: ignore[assignment]
        description="how far an event's timestamp may lie ahead of its record's",
    )


class JoinSettings(Section):
    """The bounds of predictions that wait for their labels; each is for one model."""

    pending_max: int = Field(100_000, ge=1, description="predictions that wait for a label")
    pending_age: DurationMs = Field("7d", description="event time until a prediction expires")  # type: ignore[assignment]
    early_max: int = Field(10_000, ge=0, description="labels that wait for their prediction")
    early_age: DurationMs = Field("1h", description="event time until a label is orphaned")  # type: ignore[assignment]
    joined_max: int = Field(100_000, ge=0, description="joined ids remembered to tell repeats")
    label_maturity: DurationMs = Field(
        "0s",  # type: ignore[assignment]
        description="an outcome is held until event time has passed its prediction by this",
    )
    held_max: int = Field(
        100_000, ge=1, description="outcomes held; the oldest are released before their time"
    )


class DetectorConfig(Section):
    """A detector on a signal."""

    kind: str = Field(
        description=f"{', '.join(f'`{kind}`' for kind in KINDS)},"
        " or the import path of any River detector"
    )
    params: dict[str, Any] = {}
    signal: str = "error"
    asks: bool = Field(default=True, description="whether its alarms count for a retrain request")


class LearnerConfig(Section):
    """A River model that is scored on each outcome, then learns from it."""

    path: str = Field(description="import path of a River classifier or regressor")
    params: dict[str, Any] = {}


class MetricRule(Section):
    """Ask for a retrain when a metric over the last outcomes reaches a level.

    It is looked at every `metrics.every` outcomes, and asks by itself, whatever `rule` says.
    """

    name: str = Field(
        description="accuracy or log_loss (in nats, of probabilities of at least 0.001);"
        " mae or rmse for regression"
    )
    at_or_below: float | None = None
    at_or_above: float | None = None
    over: int = Field(500, ge=1, le=1_000_000, description="outcomes the metric is taken over")

    @model_validator(mode="after")
    def _one_bound(self) -> MetricRule:
        if (self.at_or_below is None) == (self.at_or_above is None):
            raise ValueError("give exactly one of at_or_below and at_or_above")
        return self


class PeriodRule(Section):
    """Ask for a retrain regularly, drift or not."""

    outcomes: int | None = Field(None, ge=1)
    time: DurationMs | None = Field(None, description="event time")

    @model_validator(mode="after")
    def _one_period(self) -> PeriodRule:
        if (self.outcomes is None) == (self.time is None):
            raise ValueError("give exactly one of outcomes and time")
        return self


class PolicySettings(Section):
    """The worth of a drift: when it asks."""

    rule: Literal["any", "all", "at_least"] = Field(
        "any", description="how many of the detectors that ask must have found the drift"
    )
    k: int | None = Field(None, ge=1, description="with `at_least`: how many detectors")
    metric: MetricRule | None = None
    period: PeriodRule | None = None
    min_labels: int = Field(100, ge=0, description="outcomes of a version before it may ask")
    cool_down: int = Field(
        1000, ge=1, description="outcomes without an alarm until an episode is over"
    )
    ask_on_improvement: bool = False
    approval: Approval = "automatic"

    @model_validator(mode="after")
    def _k_with_at_least(self) -> PolicySettings:
        if (self.rule == "at_least") != (self.k is not None):
            raise ValueError("k goes with rule `at_least`, and `at_least` needs k")
        return self


class MetricsSettings(Section):
    """The steps at which metrics are published, and the outcomes that windows go over."""

    every: int = Field(100, ge=1, description="outcomes between two metric points")
    window: int = Field(500, ge=1, le=1_000_000, description="outcomes in a windowed metric")


def _default_detectors() -> dict[str, DetectorConfig]:
    # Those ask that keep quiet where nothing has changed: e-SR raises the false alarms that it is
    # told to, ADWIN next to none (4 in 60 million outcomes of error rates .01 to .5), Page-Hinkley
    # up to 5 in 100,000 for the worse. ADWIN finds some slow changes that e-SR takes into its
    # baseline.
    return {
        "esr": DetectorConfig(kind="MixtureESR", params={"false_alarm_every": 100_000}),
        "adwin": DetectorConfig(kind="ADWIN"),
        "page_hinkley": DetectorConfig(kind="PageHinkley", asks=False),
    }


class ModelConfig(Section):
    """The way one model is monitored."""

    task: Task | None = Field(
        None, description="taken from the events where it is not given: strings are classes"
    )
    classes: list[str | bool | int] | None = Field(
        None, min_length=2, description="when given, any other class is refused"
    )
    loss: Literal["zero_one", "log_loss", "scaled_absolute"] | None = Field(
        None, description="zero_one for classification, scaled_absolute for regression"
    )
    detectors: dict[str, DetectorConfig] = Field(default_factory=_default_detectors)
    learner: LearnerConfig | None = None
    policy: PolicySettings = PolicySettings()
    metrics: MetricsSettings = MetricsSettings()
    join: JoinSettings = JoinSettings()

    @model_validator(mode="after")
    def _relations(self) -> ModelConfig:
        signals = signal_names(has_learner=self.learner is not None)
        for name, detector in self.detectors.items():
            if detector.signal not in signals:
                known = " or ".join(sorted(signals))
                hint = "" if self.learner else "; `learner_error` needs a learner"
                raise ValueError(
                    f"detectors.{name}.signal: no signal {detector.signal!r}, use {known}{hint}"
                )
        n_asking = sum(detector.asks for detector in self.detectors.values())
        if self.policy.k is not None and self.policy.k > n_asking:
            raise ValueError(f"policy.k is {self.policy.k}, and detectors that ask: {n_asking}")
        self._check_task()
        return self

    @property
    def settled_task(self) -> Task | None:
        """The task as given, or as classes or the loss imply it; None leaves it to the events."""
        if self.task is not None:
            return self.task
        if self.loss == "scaled_absolute":
            return "regression"
        return "classification" if self.classes is not None or self.loss is not None else None

    def _check_task(self) -> None:
        task = self.settled_task
        if task == "regression" and self.classes is not None:
            raise ValueError("classes: they are for classification, and the task is regression")
        if task == "regression" and self.loss in ("zero_one", "log_loss"):
            raise ValueError(f"loss: {self.loss} is for classification")
        if task == "classification" and self.loss == "scaled_absolute":
            raise ValueError("loss: scaled_absolute is for regression")
        if self.classes is not None and len({isinstance(c, str) for c in self.classes}) > 1:
            raise ValueError("classes: give all of them as text, or none")
        metric = self.policy.metric
        if metric is None:
            return
        names = {
            None: ("accuracy", "log_loss", "mae", "rmse"),
            "classification": ("accuracy", "log_loss"),
            "regression": ("mae", "rmse"),
        }[task]
        if metric.name not in names:
            raise ValueError(f"policy.metric.name: {metric.name!r} is none of {', '.join(names)}")


class CoreConfig(Section):
    """All that decides what the core does with its input."""

    app: str = Field("streamgauge", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    topics: Topics = Topics()
    events: EventLimits = EventLimits()
    models_max: int = Field(
        10_000, ge=1, description="models on one partition; idle ones make room"
    )
    versions_max: int = Field(
        8, ge=2, description="versions of a model monitored at once, the served one among them"
    )
    defaults: ModelConfig = Field(ModelConfig(), description="for every model")
    models: dict[str, ModelConfig] = Field(
        {}, description="by model name: what differs from `defaults`"
    )

    @model_validator(mode="before")
    @classmethod
    def _overlay_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaults, models = data.get("defaults"), data.get("models")
        if not isinstance(defaults, dict) or not isinstance(models, dict):
            return data
        overlaid = {
            name: _overlay(defaults, own) if isinstance(own, dict) else own
            for name, own in models.items()
        }
        return {**data, "models": overlaid}

    @model_validator(mode="after")
    def _one_event_ahead_ends_no_wait(self) -> CoreConfig:
        models = {f"models.{name}": model for name, model in self.models.items()}
        for path, model in {"defaults": self.defaults, **models}.items():
            join = model.join
            waits = {"pending_age": join.pending_age, "early_age": join.early_age}
            if join.label_maturity:
                waits["label_maturity"] = join.label_maturity
            for name, wait in waits.items():
                if wait <= self.events.ahead_max:
                    raise ValueError(
                        f"{path}.join.{name}: {duration_text(wait)} is no more than"
                        f" events.ahead_max, {duration_text(self.events.ahead_max)}, and one event"
                        " so far ahead of its time would end every wait; raise it, or lower"
                        " events.ahead_max"
                    )
        return self

    def model_for(self, name: str) -> ModelConfig:
        """Return the configuration of one model."""
        return self.models.get(name, self.defaults)

    def digest(self) -> str:
        """Return a digest of all that decides what the core does with its input."""
        core = self.model_dump(mode="json", include=set(CoreConfig.model_fields))
        return hashlib.blake2b(json.dumps(core, sort_keys=True).encode(), digest_size=8).hexdigest()


# Each is one choice: half of another one's settings would not fit it.
_CHOICES = ("detectors", "learner", "metric", "period")


def _overlay(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _overlay(merged[key], value) if nested and key not in _CHOICES else value
    return merged


def validate_config(data: Any, kind: type[C]) -> C:
    """Return a checked configuration from parsed YAML or JSON; None and {} give the defaults.

    Args:
        data: the configuration as it was parsed.
        kind: the model that it is checked by; `CoreConfig`, or one with more sections.

    Raises:
        ConfigError: one line for each error, with the path of its field.
    """
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"the configuration is a mapping of sections, got {type(data).__name__}")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, kind))) from None
