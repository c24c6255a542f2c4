"""Templates of a desk's own: what may be one, what it prints, and what becomes of one that fails."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import pytest
from alert_samples import alert, notice
from hypothesis import given
from hypothesis import strategies as st

from o9.alerts.messages.markdown import OUTPUT_LIMIT, Template, TemplateError
from o9.alerts.messages.render import Form, Message, check_template
from o9.model.errors import OptimizationValidationError


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("\n{{ alerts.__class__ }}", "it fails on a sample"),
        ("{{ ''['__class__'] }}", "it fails on a sample"),
        ("{{ alerts[0].__init__.__globals__ }}", "it fails on a sample"),
        ("{{ headline|cut }}", "missing 1 required positional argument"),
        ("{{ headline|nothing }}", "line 1: No filter named 'nothing'."),
        ("{{ alerts.append(1) }}", "it fails on a sample"),
        ("{% include 'text' %}", "it fails on a sample"),
        ("{% for a in range(100000) %}{{ badge }}{% endfor %}", "its output exceeds 200,000 characters"),
        ("{{ labels }}", "line 1: 'labels' is not defined"),
        ("{% if group.desk %}\n{{ headlin }}{% endif %}", "line 2: 'headlin' is not defined; did you mean"),
        ("{% for a in alerts %}{{ a.titel }}{% endfor %}", "has no attribute 'titel'"),
        ("{{ alerts[99].title }}", "has no element 99"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ badge", "unexpected end of template"),
        ("{% if %}", "line 1: Expected an expression"),
        ("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "it cannot be compiled"),
        ("x" * 20_001, "at most 20,000 characters"),
        (7, "expected a template"),
    ],
)  # fmt: skip
def test_a_template_that_may_not_be_is_refused_with_field_line_and_remedy(source: Any, told: str) -> None:
    with pytest.raises(OptimizationValidationError) as refused:
        check_template("body", source)
    assert refused.value.field == "body"
    assert told in refused.value.problem


VALUES = st.sampled_from(
    ["badge", "alerts", "group", "firing", "a", "a.title", "alerts[0]", "alerts[9]", "loop.index", "'x'", "0", "1e300",
     "none", "[1, 'a']", "alerts['x']", "headlin"]
)  # fmt: skip
FILTERS = st.sampled_from(
    ["cut(5)", "cut('x')", "default", "first", "items", "join(3)", "length", "round('x')", "round(-400)", "trim", "map"]
)
SIGNS = st.sampled_from(["+", "/", "%", "<", "in", "and", "~", "**", "=="])
EXPRESSIONS = st.recursive(
    VALUES,
    lambda inner: st.builds("({})|{}".format, inner, FILTERS) | st.builds("({}) {} ({})".format, inner, SIGNS, inner),
    max_leaves=4,
)
TEMPLATES = st.recursive(
    st.builds("{{{{ {} }}}}".format, EXPRESSIONS)
    | st.sampled_from(["", "{{", "{% raw %}", "{% block x %}{% endblock %}"]),
    lambda inner: (
        st.builds("{{% for a in {} %}}{}{{% endfor %}}".format, EXPRESSIONS, inner)
        | st.builds("{{% if {} %}}{}{{% endif %}}".format, EXPRESSIONS, inner)
        | st.builds("{{% set a = {} %}}{}".format, EXPRESSIONS, inner)
    ),
    max_leaves=4,
)


@given(st.sampled_from(["title", "body"]), TEMPLATES)
def test_any_template_is_taken_or_refused_by_its_field(name: str, source: str) -> None:
    field = ""
    try:
        check_template(name, source)
        Message(notice(alert("Drawdown")), {name: source}).body()
    except OptimizationValidationError as error:
        field = error.field
    assert field in ("", name)


def test_a_template_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(OptimizationValidationError, match="text: there is no such template; use title, body"):
        check_template("text", "x")


def test_a_template_prints_no_more_than_it_may() -> None:
    template = Template("{% for a in one %}{{ a }}{% endfor %}", "x", markdown=False, names=("one",))
    assert len(template.render({"one": ["y" * (OUTPUT_LIMIT // 10)] * 10})) == OUTPUT_LIMIT
    with pytest.raises(TemplateError, match="exceeds 200,000 characters"):
        template.render({"one": ["y" * (OUTPUT_LIMIT // 10)] * 11})


def test_a_desk_s_template_in_each_form() -> None:
    own = {
        "title": "{{ level|upper }}: {{ alerts[0].title|cut(9) }} [{{ group.title }}{{ group.nothing }}]\nx",
        "body": "**{{ alerts[0].title }}** {{ alerts[0].labels.level }} {{ alerts[0].figures|length }}",
    }
    told = Message(notice(alert("*a* <b> & more")), own)
    assert told.title == "ERROR: *a* <b>… [Trials fail] x"
    assert told.body(Form.TEXT) == "*a* <b> & more error 0"
    assert told.body(Form.MARKDOWN) == r"**\*a\* \<b\> & more** error 0"
    assert told.body(Form.HTML) == "<p><strong>*a* &lt;b&gt; &amp; more</strong> error 0</p>\n"


@pytest.mark.parametrize("form", list(Form))
def test_a_template_that_fails_on_a_notice_is_replaced_and_the_message_says_so(
    form: Form, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"body": "{% if group.desk %}{{ alerts[9].title }}{% endif %}", "title": "mine"}
    told = Message(replace(notice(alert("Drawdown")), group_labels={"desk": "fx"}), own)
    assert told.title == "mine"
    body = told.body(form)
    assert "templates.body failed:" in html.unescape(body).replace("\\", "")
    assert "2 h 5 min" in body
    told.body(form, 500)
    assert len(caplog.records) == 1
