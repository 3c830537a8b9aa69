"""Who is let in, and what is logged of it."""

from __future__ import annotations

import base64
import os

import pytest

from slicewise.worker.errors import Misconfigured
from slicewise.worker.web import tokens
from slicewise.worker.web.door import Admission, check_listening
from slicewise.worker.web.tokens import Tokens


@pytest.fixture
def database(tmp_path, opened):
    """One kind is enough: little of this reaches it."""
    with opened(f"sqlite:///{tmp_path / 'test.sqlite3'}") as made:
        made.upgrade()
        yield made


@pytest.fixture
def keys(tmp_path):
    """A file with two tokens, and them."""
    made = {name: tokens.make(name) for name in ("pacs", "research.team")}
    path = tmp_path / "tokens"
    path.write_text("# who may ask\n\n" + "".join(f"{line}\n" for _, line in made.values()))
    return path, {name: token for name, (token, _) in made.items()}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- tokens -----------------------------------------------------------------------------------------------------


def test_who_has_a_token_is_named_in_the_books(serve, keys):
    path, known = keys
    face = serve(admission=Admission(Tokens(path)))
    assert face.post("/jobs", b"a", headers=bearer(known["pacs"])).status_code == 202
    assert face.post("/jobs", b"b", headers=basic("anybody", known["research.team"])).status_code == 202
    assert [one["sender"] for one in face.arrivals()] == ["pacs@127.0.0.1", "research.team@127.0.0.1"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong"),
        basic("pacs", ""),
        basic("pacs", "wrong"),
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic"},
        {"Authorization": "Digest x"},
        {"Authorization": "Bearer " + "x" * 4000},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_who_has_none_gets_nothing(serve, keys, headers):
    face = serve(admission=Admission(Tokens(keys[0])))
    for answer in (
        face.post("/jobs", b"x", headers=headers),
        face.post("/studies", b"x", headers=headers),
        face.get("/jobs/1", headers=headers),
        face.get("/nothing", headers=headers),
    ):
        assert answer.status_code == 401
        assert "Bearer" in answer.headers["WWW-Authenticate"]
        assert answer.json()["detail"]
    assert face.get("/healthz").json() == {"status": "ok"}
    assert face.get("/readyz").json() == {"status": "ready"}
    assert face.arrivals() == face.half() == []


def test_the_hash_of_a_token_is_no_token(serve, keys):
    path, _ = keys
    face = serve(admission=Admission(Tokens(path)))
    for line in path.read_text().splitlines():
        assert face.get("/jobs/1", headers=bearer(line.rpartition(":")[2])).status_code == 401


def test_a_token_that_is_taken_out_is_out_at_once(serve, keys):
    path, known = keys
    face = serve(admission=Admission(Tokens(path)))
    assert face.get("/jobs/1", headers=bearer(known["pacs"])).status_code == 404
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "pacs" not in line))
    assert face.get("/jobs/1", headers=bearer(known["pacs"])).status_code == 401
    assert face.get("/jobs/1", headers=bearer(known["research.team"])).status_code == 404
    kept = path.read_text()
    for broken in ("rubbish", kept + "\npacs:123\n"):
        path.write_text(broken)
        assert face.get("/jobs/1", headers=bearer(known["research.team"])).status_code == 401
    path.unlink()
    assert face.get("/jobs/1", headers=bearer(known["research.team"])).status_code == 401
    path.write_text(kept)
    assert face.get("/jobs/1", headers=bearer(known["research.team"])).status_code == 404


def test_files_that_hold_no_tokens_are_refused_at_the_start(tmp_path):
    path = tmp_path / "tokens"
    with pytest.raises(Misconfigured, match="cannot be read"):
        Tokens(path)
    for text, says in (
        ("", "no token is in"),
        ("# none\n", "no token is in"),
        ("a\n", "line 1"),
        ("\na:b\n", "line 2"),
    ):
        path.write_text(text)
        with pytest.raises(Misconfigured, match=says):
            Tokens(path)


def test_a_token_is_shown_once_and_its_line_lets_it_in(slicewise, tmp_path):
    done = slicewise("token", "pacs")
    path = tmp_path / "tokens"
    path.write_text(done.stdout)
    token = done.stderr.split()[-1]
    assert token not in done.stdout
    assert Tokens(path).holder(f"Bearer {token}") == "pacs"
    assert slicewise("token", "pacs").stdout != done.stdout
    for name in ("", "a b", "a:b", "x" * 65):
        assert "give another" in slicewise("token", name, status=78).stderr


# --- other sites, other names, other hosts ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Host": "localhost"}, 202),
        ({"Host": "127.0.0.1:8900"}, 202),
        ({"Host": "[::1]:8900"}, 202),
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Host": "localhost", "Origin": "http://localhost"}, 202),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:2"}, 403),
        ({"Host": "localhost", "Origin": "http://[bad"}, 403),
        ({"Host": "[bad"}, 421),
    ],
)
def test_a_page_that_a_browser_shows_here_does_not_reach_in(face, headers, status):
    assert face.post("/jobs", b"x", headers=headers).status_code == status


def test_only_the_proxy_connects_and_says_who_asks(serve, keys):
    path, known = keys
    face = serve(admission=Admission(Tokens(path), "127.0.0.1"))
    for forwarded in ("10.1.2.3", "1.1.1.1, 10.1.2.3", "rubbish, 10.1.2.3"):
        headers = {**bearer(known["pacs"]), "X-Forwarded-For": forwarded, "Host": "slicewise.example"}
        assert face.post("/jobs", b"x", headers=headers).status_code == 202
    for forwarded in ("", "rubbish", "DOE^JOHN"):
        headers = {**bearer(known["pacs"]), "X-Forwarded-For": forwarded}
        assert face.post("/jobs", b"x", headers=headers).status_code == 202
    assert [one["sender"] for one in face.arrivals()] == ["pacs@10.1.2.3"] * 3 + ["pacs@127.0.0.1"] * 3
    other = serve(admission=Admission(Tokens(path), "10.9.9.9"))
    assert other.post("/jobs", b"x", headers=bearer(known["pacs"])).status_code == 403


def test_without_a_proxy_nobody_is_believed(face):
    assert face.post("/jobs", b"x", headers={"X-Forwarded-For": "10.1.2.3"}).status_code == 202
    assert [one["sender"] for one in face.arrivals()] == ["127.0.0.1"]


def test_an_address_that_others_reach_needs_tokens_and_tls(keys):
    someone = Admission(Tokens(keys[0]))
    proxied = Admission(Tokens(keys[0]), "10.1.2.3")
    for address, admission, tls, says in (
        ("127.0.0.1", Admission(), False, None),
        ("::1", Admission(), False, None),
        ("127.0.0.1", someone, False, None),
        ("0.0.0.0", Admission(), False, "--tokens"),
        ("0.0.0.0", Admission(), True, "--tokens"),
        ("10.1.2.9", someone, False, "--tls-cert"),
        ("10.1.2.9", someone, True, None),
        ("10.1.2.9", proxied, False, None),
        ("127.0.0.1", Admission(None, "127.0.0.1"), False, "--tokens"),
        ("localhost", Admission(), False, "no IP address"),
    ):
        if says is None:
            check_listening(address, admission, tls=tls)
        else:
            with pytest.raises(Misconfigured, match=says):
                check_listening(address, admission, tls=tls)


# --- the log ----------------------------------------------------------------------------------------------------


def test_neither_addresses_nor_names_nor_bodies_are_logged(face, caplog, wait_until, write_dicom, tmp_path):
    caplog.set_level("DEBUG")
    secret = "DOE^JOHN"
    scan = write_dicom(tmp_path / "a.dcm", PatientName=secret, StudyInstanceUID="1.2.77777").read_bytes()
    for answer in (
        face.post("/jobs", files=[("file", (f"{secret}.dcm", scan))]),
        face.post("/studies/1.2.77777", scan, "application/dicom"),
        face.post(f"/studies/{secret}", scan, "application/dicom"),
        face.get(f"/{secret}?{secret}"),
        face.post("/jobs", files=[("file", (f"{secret}.zip", b"PK" + secret.encode()))]),
        face.post("/studies", secret, secret),
    ):
        assert answer.status_code
    wait_until(lambda: caplog.text.count(" ms, ") == 6)
    logged = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("urllib3"))
    assert "POST submit: 202" in logged
    for hidden in ("DOE", "77777", os.fspath(tmp_path)):
        assert hidden not in logged
