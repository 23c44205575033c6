"""The soak test passes on correct servers and fails on faulty ones; ``make soak`` runs it for longer."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.soak.growth import Sample, ends
from tests.soak.model import BOUND_S, CACHE_TTL_S, MARGIN_S, RECOVERY_S, Keys, Secret, State, Windows
from tests.soak.proxy import ROOT
from tests.soak.report import BEGIN, JUDGED_FROM, PAGE, Report, update
from tests.soak.soak import Soak
from tests.soak.traffic import LATE_S, Request, Response, wrong

if TYPE_CHECKING:
    from tests.soak.model import Verdict

READ = frozenset({"read"})
LIVE = State("live", (Secret("one"),), READ)
SOON_S = BOUND_S + MARGIN_S


@pytest.fixture(autouse=True)
def _unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage cannot measure processes that are killed."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


# --- the model


class Model:
    """A store with one key, whose last change was made at ``at``."""

    def __init__(self) -> None:
        self.windows = Windows()
        self.keys = Keys("redis", self.windows)
        self.change(LIVE)

    def change(self, after: State) -> None:
        self.keys.begin("ci", after)
        self.keys.done("ci", after)
        self.at = time.monotonic()

    def fail(self, place: str) -> None:
        self.windows.open(place)
        self.windows.close(place)

    def allowed(self, after_s: float, secret: str = "one") -> Verdict:
        """The verdict for a request at this time after the change."""
        now = self.at + after_s
        return self.keys.allowed("uvicorn-redis", "ci", secret, now, now)


@pytest.fixture
def model() -> Model:
    return Model()


def test_an_active_key_is_accepted_and_not_refused(model: Model) -> None:
    assert model.allowed(0.1) == ({READ}, False, False, False)
    assert model.allowed(0.1, "other") == (set(), True, False, False)
    assert model.keys.allowed("uvicorn-redis", "unknown", "one", model.at, model.at).refused


@pytest.mark.parametrize("status", ["disabled", "revoked", "absent"])
def test_an_ended_key_is_accepted_only_within_the_bound(model: Model, status: str) -> None:
    model.change(State(status, LIVE.secrets, READ))
    assert model.allowed(SOON_S - 0.1) == ({READ}, True, False, False)
    assert model.allowed(SOON_S + 0.1) == (set(), True, False, False)


def test_an_enabled_key_may_share_an_earlier_refusal(model: Model) -> None:
    """That of an equal request that was in progress; no such request exists for a new secret."""
    model.change(State("disabled", LIVE.secrets, READ))
    model.change(State("live", (*LIVE.secrets, Secret("new")), READ))
    assert model.allowed(SOON_S - 0.1) == ({READ}, True, False, False)
    assert model.allowed(SOON_S - 0.1, "new") == ({READ}, False, False, False)
    assert model.allowed(SOON_S + 0.1) == ({READ}, False, False, False)


@pytest.mark.parametrize("place", ["redis", "uvicorn-redis"])
def test_in_an_outage_the_bound_is_the_cache_ttl(model: Model, place: str) -> None:
    """In an outage of its store, or of the server that is called; never longer."""
    model.change(State("revoked", LIVE.secrets, READ))
    model.fail(place)
    assert model.allowed(CACHE_TTL_S - 0.1).scopes == {READ}
    assert model.allowed(CACHE_TTL_S + 0.1).scopes == set()


def test_an_outage_of_another_store_changes_nothing(model: Model) -> None:
    model.change(State("revoked", LIVE.secrets, READ))
    model.fail("sqlite")
    model.fail("gunicorn-redis")
    assert model.allowed(SOON_S + 0.1) == (set(), True, False, False)


def test_an_outage_lasts_until_all_had_time_to_recover(model: Model) -> None:
    model.fail("redis")
    assert [model.allowed(RECOVERY_S + more).outage for more in (-0.1, 0.1)] == [True, False]
    assert not model.allowed(0.1).broken
    model.fail("uvicorn-redis")
    assert [model.allowed(RECOVERY_S + more).broken for more in (-0.1, 0.1)] == [True, False]


def test_during_a_change_both_states_are_right(model: Model) -> None:
    model.keys.begin("ci", State("live", LIVE.secrets))
    now = time.monotonic()
    assert model.keys.allowed("uvicorn-redis", "ci", "one", now, now).scopes == {READ, frozenset()}


def test_a_failed_change_leaves_the_old_state(model: Model) -> None:
    model.keys.begin("ci", State())
    model.keys.undone("ci")
    model.at = time.monotonic()
    assert model.allowed(SOON_S + 0.1) == ({READ}, False, False, False)
    model.change(State())
    assert model.allowed(SOON_S + 0.1) == (set(), True, False, False)
    assert model.keys.present() == set()


def test_a_secret_ends_with_its_overlap_in_every_cache(model: Model) -> None:
    ends = (model.at + 2, model.at + 3)
    before = model.at
    model.change(State("live", (Secret("one", ends), Secret("two")), READ))
    model.at = before
    assert [(model.allowed(at).scopes, model.allowed(at).refused) for at in (1.9, 2.5, 3.1)] == [
        ({READ}, False),
        ({READ}, True),
        (set(), True),
    ]
    assert model.allowed(9, "two").scopes == {READ}


# --- checking responses


def body(**fields: object) -> bytes:
    return json.dumps({"client_id": "ci", "scopes": ["read"], "number": "7", **fields}).encode()


def problem(code: str) -> bytes:
    return json.dumps({"code": code}).encode()


RIGHT = Request("valid key", "Basic ...", "ci", "one")
RAISES = Request("valid key, handler raises", "Basic ...", "ci", "one")
MALFORMED = Request("malformed", "Basic ?")
NONE = Request("no header", None)
PASSWORD = Request("valid key", "Basic ...", "ci", "password-1")

REFUSED = "expected a 401, invalid_credentials"

# The request, the response, whether the store has a fault, and the problem; empty if the response is correct.
RESPONSES = {
    "allowed": (RIGHT, 200, body(), False, ""),
    "another number": (RIGHT, 200, body(number="8"), False, "the response to another request"),
    "another client": (RIGHT, 200, body(client_id="cd"), False, "the response to another request"),
    "other scopes": (RIGHT, 200, body(scopes=[]), False, "allowed with other scopes"),
    "refused": (RIGHT, 401, problem("invalid_credentials"), True, "an active key was refused"),
    "another refusal": (RIGHT, 401, problem("missing_credentials"), True, "a 401 of another kind"),
    "outage": (RIGHT, 503, problem("backend_unavailable"), True, ""),
    "no outage": (RIGHT, 503, problem("backend_unavailable"), False, "a 503 without a fault"),
    "overloaded": (RIGHT, 503, problem("overloaded"), True, "a 503 of another kind"),
    "overloaded, password": (PASSWORD, 503, problem("overloaded"), False, ""),
    "raised": (RAISES, 500, problem("internal_error"), False, ""),
    "raised, as text": (RAISES, 500, b"Internal Server Error", False, "a problem of another kind"),
    "raised, allowed": (RAISES, 200, body(), False, "expected 500"),
    "not raised": (RIGHT, 500, problem("internal_error"), True, "expected 200"),
    "broken": (RIGHT, 0, b"", True, "incomplete response"),
    "malformed": (MALFORMED, 401, problem("invalid_credentials"), True, ""),
    "malformed, outage": (
        MALFORMED,
        503,
        problem("backend_unavailable"),
        True,
        "expected a 401, invalid_credentials",
    ),
    "no header": (NONE, 401, problem("missing_credentials"), False, ""),
    "no header, allowed": (NONE, 200, body(), False, "expected a 401, missing_credentials"),
}


@pytest.mark.parametrize("case", RESPONSES)
def test_a_response_is_judged(model: Model, case: str) -> None:
    request, status, data, outage, expected = RESPONSES[case]
    if request is PASSWORD:
        model.change(State("live", (Secret(PASSWORD.secret),), READ))
    allowed = model.allowed(0.1, request.secret)._replace(outage=outage)
    assert wrong(request, Response(status, data, 0, 0.1), allowed, "7") == expected


def test_a_late_response_is_wrong(model: Model) -> None:
    """Unless its worker was stopped."""
    late = Response(200, body(), 0, LATE_S + 0.1)
    allowed = model.allowed(0.1)
    assert wrong(RIGHT, late, allowed._replace(outage=True), "7") == "too late"
    assert wrong(RIGHT, late, allowed._replace(broken=True), "7") == ""


@pytest.mark.parametrize("request_", [RIGHT, RAISES], ids=["responses", "raises"])
def test_an_accepted_revoked_key_is_wrong(model: Model, request_: Request) -> None:
    """Even if the app then raises."""
    model.change(State("revoked", LIVE.secrets, READ))
    response = Response(request_.status, body(), 0, 0.1)
    assert wrong(request_, response, model.allowed(SOON_S + 0.1), "7") == "an inactive key was allowed"


# --- growth, and the report


def samples(mib_each: float, count: int = JUDGED_FROM) -> list[Sample]:
    """Samples of a process that fills its caches, and then grows by ``mib_each`` between two samples."""
    return [Sample(40 + min(at, 30) + mib_each * at + math.sin(at), 20 + at % 3, 5) for at in range(count)]


@pytest.mark.parametrize(("mib_each", "is_wrong"), [(0, False), (0.01, False), (0.05, True)])
def test_growth_differs_from_warming_up(mib_each: float, is_wrong: bool) -> None:
    report = Report(1, quiet=True)
    warm, last = ends(samples(0))
    assert warm.rss_mib == pytest.approx(last.rss_mib, abs=0.5) == pytest.approx(70, abs=0.5)
    report.judge_growth({("uvicorn-redis", 1): samples(mib_each), ("gunicorn-redis", 2): samples(1, 40)})
    assert bool(report.problems) == is_wrong
    assert "| uvicorn-redis |" in report.text()
    assert "| gunicorn-redis |" in report.text()


def test_figures_are_written_to_their_place() -> None:
    page = PAGE.read_text()
    assert BEGIN in page
    assert update(update(page, "other figures"), "these") == update(page, "these") != page


# --- runs


def test_a_short_run_passes() -> None:
    """Both servers, both stores; real faults, and changes meanwhile."""
    report = Soak(0.1, 1, ("gunicorn-sqlite", "uvicorn-redis"), clients=1, quiet=True).run()

    assert report.problems == []
    assert report.of("requests").total() > 200
    assert report.of("requests")["valid key: 200"] > 50
    assert report.of("requests")["inactive key: 401"] > 10
    assert report.of("faults").total() >= 2
    assert report.of("changes").total() > 10


OPEN = """
import sys
from tests.soak.sites import APPS
from tests.soak.soak import main
APPS["uvicorn-sqlite"] = "tests.soak.apps:open_asgi"
sys.exit(main(["--minutes", "5", "--seed", "1", "--servers", "uvicorn-sqlite"]))
"""


def test_a_run_over_an_open_server_fails() -> None:
    """It accepts everything. Ctrl-C ends a run early, with its verdict."""
    with subprocess.Popen([sys.executable, "-c", OPEN], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        output = ""
        while "an inactive key was allowed" not in output:
            line = run.stdout.readline()
            assert line, output
            output += line
        run.send_signal(signal.SIGINT)
        output += run.stdout.read()
    assert run.returncode == 1
    assert output.startswith("seed 1\n")
    assert " wrong** of " in output
    assert output.endswith("failed: see the lines that begin with WRONG\n")
