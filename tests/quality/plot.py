"""Delay against false alarms: one panel for each kind of change, one mark for each detector."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

from tests.quality.contestants import CAPYMOA, CONTESTANTS, DUMMY, OURS, RIVER
from tests.quality.streams import CHANGES

PANELS = [
    "errors .2 -> .3",
    "errors .02 -> .03",
    "Beta, mean .2 -> .22",
    "N(0,1), mean + .5",
    "N(0,1), sd x 1.3",
    "t(2.5) + .5",
]
STYLE = {
    OURS: ("o", "#0b6e99"),
    RIVER: ("s", "#d1711a"),
    CAPYMOA: ("^", "#5b8f3c"),
    DUMMY: ("X", "#808080"),
}
LABELS = {
    OURS: "streamgauge",
    RIVER: "River's algorithms",
    CAPYMOA: "CapyMOA",
    DUMMY: "alarms always, never",
}
# No alarm at all is drawn here.
LEAST = 0.02
POWERS = [10.0**k for k in range(-1, 6)]


def plot(results, path):
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "streamgauge"})
    figure, axes = plt.subplots(2, 3, figsize=(15, 9.5), sharex=True, sharey=True)
    by_name = {change.name: change for change in CHANGES}
    for panel, name in zip(axes.flat, PANELS, strict=True):
        _draw(panel, results, by_name[name])
    for panel in axes[1]:
        panel.set_xlabel("false alarms per 100,000 values")
    for panel in axes[:, 0]:
        panel.set_ylabel("values until the alarm, median")
    marks = [
        Line2D([], [], marker=marker, color=colour, linestyle="", label=LABELS[family])
        for family, (marker, colour) in STYLE.items()
    ]
    hollow = Line2D([], [], marker="o", color="#444444", markerfacecolor="none", linestyle="")
    hollow.set_label("more than 1 % missed")
    figure.legend(handles=[*marks, hollow], loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.035, 1, 1))
    figure.canvas.draw()
    for panel in axes.flat:
        _label(panel)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _draw(panel, results, change):
    panel.set_title(change.name, fontsize=10.5, fontweight="bold", loc="left")
    panel.set(xscale="log", yscale="log", xlim=(LEAST / 1.6, 2.5e5), ylim=(0.6, 5e4))
    panel.set_xticks([LEAST, *POWERS], ["none", *map("{:,.10g}".format, POWERS)])
    panel.set_yticks(POWERS[1:-1], map("{:,.10g}".format, POWERS[1:-1]))
    panel.axvline(1, color="#0b6e99", linewidth=0.8, linestyle=":")
    panel.grid(color="#eeeeee", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.named = []
    for contestant in CONTESTANTS.values():
        false_alarms = results.false_alarms_of(contestant.name, change.before.name)
        delays = results.delays_of(contestant.name, change.name)
        if false_alarms is None or delays is None:
            continue
        marker, colour = STYLE[contestant.family]
        x = max(false_alarms.per_100k, LEAST)
        y, high = (delays.quantile(q) or delays.horizon for q in (0.5, 0.9))
        face = "none" if delays.missed > 0.01 else colour
        panel.plot([x, x], [y, high], color=colour, linewidth=0.9, alpha=0.5)
        panel.plot(x, y, marker, color=colour, markerfacecolor=face, markersize=6.5)
        panel.named.append((x, y, contestant.name, colour))


def _label(panel):
    """A name beside each mark; names that would overlap are moved apart, up and down."""
    points = panel.transData.transform([(x, y) for x, y, *_ in panel.named])
    unit = panel.figure.dpi / 72
    height = 9.0 * unit
    taken = [(x - height / 2, y - height / 2, x + height / 2, y + height / 2) for x, y in points]
    named = sorted(zip(points, panel.named, strict=True), key=lambda both: both[0][1])
    for (x, y), (data_x, data_y, name, colour) in named:
        width = 4.2 * unit * len(name)
        on_left = x + width + 8 * unit > panel.bbox.x1
        left = x - width - 6 * unit if on_left else x + 6 * unit
        for step in sorted(range(-60, 61), key=abs):
            middle = y + step * height / 3
            box = (left, middle - height / 2, left + width, middle + height / 2)
            if box[1] > panel.bbox.y0 and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        panel.annotate(
            name,
            (data_x, data_y),
            xytext=((left - x) / unit, (middle - y) / unit),
            textcoords="offset points",
            fontsize=7.5,
            color=colour,
            va="center",
            arrowprops=_line(colour) if abs(middle - y) > height / 2 else None,
        )


def _line(colour):
    return {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6}


def _overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
