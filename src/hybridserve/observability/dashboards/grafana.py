"""Dashboards as Grafana's JSON, built with Grafana's own SDK, which is in the `dev` extra."""

from __future__ import annotations

import json
import re
from itertools import count
from typing import Any, Literal

from hybridserve.observability.dashboards import Dashboard, Panel
from hybridserve.observability.dashboards.model import MODEL, NAMESPACE, RAY
from hybridserve.observability.rules.alerts import RUNBOOKS

Format = Literal["classic", "resource"]
"""`classic`: Grafana 11 and later, by file or import. `resource`: Grafana 12's dashboard.grafana.app/v1beta1."""

_WIDTH, _HEIGHT, _STAT_HEIGHT = 24, 8, 5
_TAG = "hybridserve"
SCALED = f"changes(hybridserve_autoscaler_target_replicas{{{MODEL}}}[1m]) > 0"
"""Annotation on every dashboard: when the target number of replicas changed."""
# Name, label and query of the values; each query uses the variables before it.
_VARIABLES = (
    ("namespace", "Namespace", "label_values(hybridserve_build_info, namespace)"),
    ("release", "Release", f"label_values(hybridserve_build_info{{{NAMESPACE}}}, release)"),
    ("model", "Model", f"label_values(hybridserve_build_info{{{RAY}}}, model)"),
    ("replica", "Replica", f"label_values(hybridserve_build_info{{{MODEL}}}, replica)"),
)
# Name, label and default of a box on the dashboards whose queries use it.
_BOXES = (("price", "Price of a replica-hour", "1"),)
# A color says the same on every panel: of an outcome, a status of a finding, an HTTP status, a severity.
COLORS = (
    ("green", r"good|allow|PASS|stop|2\d\d"),
    ("yellow", r"UNKNOWN"),
    ("orange", r"slow_\w+|block|length|warning FAIL|4\d\d|ticket"),
    ("red", r"failed|error|abort|error FAIL|5\d\d|page"),
    ("blue", r"WAIVED|info"),
)
_COLORED = re.compile(r"{{(outcome|status|status_code|severity|finished_reason)}}")
_RECORDED = ("slo:", "hybridserve:")
_NO_VALUE, _NO_RULES = "No data", "No data: the recording rules are not loaded, or there were no requests"


def dashboard(board: Dashboard, form: Format = "classic") -> str:
    """One dashboard as JSON text."""
    tree = json.loads(_classic(board))
    if form == "resource":
        tree = {
            "apiVersion": "dashboard.grafana.app/v1beta1",
            "kind": "Dashboard",
            "metadata": {"name": board.uid},
            "spec": {key: value for key, value in tree.items() if key not in ("id", "uid", "version")},
        }
    return json.dumps(tree, indent=1, sort_keys=True) + "\n"


def _classic(board: Dashboard) -> str:
    from grafana_foundation_sdk.builders import common
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as models
    from grafana_foundation_sdk.models import dashboard as kinds

    made = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([_TAG])
        .readonly()
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(kinds.DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("Dashboards")
            .type(kinds.DashboardLinkType.DASHBOARDS)
            .tags([_TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .link(
            build.DashboardLink("Runbooks")
            .type(kinds.DashboardLinkType.LINK)
            .url(f"{RUNBOOKS}/README.md")
            .target_blank(True)
        )
        .with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    source = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
    for name, label, query in _VARIABLES:
        made = made.with_variable(
            build.QueryVariable(name)
            .label(label)
            .datasource(source)
            .query({"query": query, "refId": name})
            .refresh(kinds.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".*")
            .current(kinds.VariableOption(selected=True, text="All", value="$__all"))
        )
    exprs = " ".join(expr for panel in board.panels() for expr, _ in panel.queries)
    for name, label, default in _BOXES:
        if f"${name}" in exprs:
            now = kinds.VariableOption(selected=True, text=default, value=default)
            made = made.with_variable(build.TextBoxVariable(name).label(label).default_value(default).current(now))
    made = made.annotation(
        build.AnnotationQuery().name("Scaling").datasource(source).enable(True).icon_color("blue").expr(SCALED)
    )
    ids = count(1)
    for row in board.rows:
        made = made.with_row(build.Row(row.title).id(next(ids)))
        tall = _STAT_HEIGHT if all(panel.kind in ("stat", "table") for panel in row.panels) else _HEIGHT
        for number, panel in enumerate(row.panels):
            place = (_span(number, len(row.panels)), tall)
            made = made.with_panel(_panel(panel, place, source, common).id(next(ids)))
    text: str = JSONEncoder(sort_keys=True).encode(made.build())
    return text


def _span(number: int, of: int) -> int:
    """Columns of one of `of` panels, so that together they fill the row."""
    return _WIDTH // of + (number < _WIDTH % of)


def _panel(panel: Panel, place: tuple[int, int], source: Any, common: Any) -> Any:
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
    from grafana_foundation_sdk.models import common as models
    from grafana_foundation_sdk.models import dashboard as kinds
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

    made: Any
    if panel.kind == "table":
        colors = [
            {"type": "regex", "options": {"pattern": f"^({names})$", "result": {"color": color}}}
            for color, names in COLORS
        ]
        made = (
            table.Panel()
            .sort_by([common.TableSortByFieldState().display_name("severity")])
            .override_by_regexp("/Time|Value/", [kinds.DynamicConfigValue("custom.hidden", True)])
            .override_by_name(
                "severity",
                [
                    kinds.DynamicConfigValue("mappings", colors),
                    kinds.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
                ],
            )
        )
    elif panel.kind != "timeseries":
        made = stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        if panel.kind == "names":
            made = made.text_mode(models.BigValueTextMode.NAME).graph_mode(models.BigValueGraphMode.NONE)
            made = made.orientation(models.VizOrientation.HORIZONTAL)
    else:
        made = (
            timeseries.Panel()
            .fill_opacity(20 if panel.stack else 5)
            .min(0)
            .legend(common.VizLegendOptions().show_legend(True).placement(models.LegendPlacement.BOTTOM))
        )
        if panel.stack:
            made = made.stacking(common.StackingConfig().mode(models.StackingMode.NORMAL))
        if panel.limits:
            made = made.thresholds_style(
                common.GraphThresholdsStyleConfig().mode(models.GraphThresholdsStyleMode.DASHED)
            )
        if any(_COLORED.search(legend) for _, legend in panel.queries):
            for color, names in COLORS:
                fixed = kinds.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})
                made = made.override_by_regexp(rf"/(^|\s)({names})$/", [fixed])
    recorded = any(prefix in expr for expr, _ in panel.queries for prefix in _RECORDED)
    steps = [kinds.Threshold(value=None, color=panel.base)]
    steps += [kinds.Threshold(value=value, color=color) for value, color in panel.limits]
    made = (
        made.title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .span(place[0])
        .height(place[1])
        .datasource(source)
        .no_value(_NO_RULES if recorded else _NO_VALUE)
        .thresholds(build.ThresholdsConfig().mode(kinds.ThresholdsMode.ABSOLUTE).steps(steps))
    )
    if panel.highest is not None:
        made = made.max(panel.highest)
    if panel.runbook is not None:
        link = build.DashboardLink("Runbook").url(f"{RUNBOOKS}/{panel.runbook}.md").target_blank(True)
        made = made.links([link.type(kinds.DashboardLinkType.LINK)])
    for number, (expr, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(expr).legend_format(legend)
        if panel.kind == "table":
            query = query.instant().format(PromQueryFormat.TABLE)
        made = made.with_target(query)
    return made
