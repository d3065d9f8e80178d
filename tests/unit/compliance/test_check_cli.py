"""The commands check, explain and notice: exit codes, output, files, and what they import."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import yaml

from hybridserve.catalog.models import resolve_model
from hybridserve.cli import main
from hybridserve.compliance.documents import digest
from hybridserve.compliance.evaluate import RULES
from hybridserve.compliance.evidence import SCHEMA, is_intact, seal_record
from hybridserve.guards.canaries.prompts import canary_set
from support.compliance_cases import EXAMPLE, ROOT, sha256
from support.fake_service import FakeService

DAY = ["--date", "2026-11-23"]
HEAVY = ("torch", "ray", "vllm", "fastapi", "starlette", "transformers", "httpx", "rich", "cyclonedx")

Run = Callable[..., tuple[int, str, str]]
Check = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; returns exit code, stdout and stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(argv))
        output = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, output.out, output.err

    return run


@pytest.fixture
def check(run: Run) -> Check:
    """Run `check --json` on the example; returns exit code and document."""

    def check(*argv: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = run("check", "-c", str(EXAMPLE), *DAY, "--json", *argv)
        return code, json.loads(out)

    return check


def open_rules(document: dict[str, Any]) -> set[str]:
    return {row["rule"] for row in document["findings"] if row["status"] in ("FAIL", "UNKNOWN")}


def test_findings_are_in_columns(run: Run) -> None:
    """One of these rules has a longer name than all others."""
    model = ["--set", "model.id=nemotron-nano-9b-v2", "--set", "accelerator.name=l40s"]
    _, out, _ = run("check", *DAY, *model, "--all")
    rows = [line for line in out.splitlines() if re.match(r"(PASS|FAIL|UNKNOWN|NOTE) ", line)]
    assert any("engine.prefix-cache-granularity" in row for row in rows)
    starts = {len(row) - len(row.split(None, 3)[3]) for row in rows}
    assert len(starts) == 1


def stdout(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert (code, err) == (0, "")
    return out


def test_example_is_ready_for_production(check: Check) -> None:
    code, document = check()
    assert (code, open_rules(document), document["verdict"]) == (0, set(), "ready")
    assert document["profile"] == "production"


@pytest.mark.parametrize(
    ("assignment", "rules"),
    [
        ("engine.chat_template=other.jinja", {"guard.overrides"}),
        ("engine.max_num_seqs=100000", {"engine.seqs-over-blocks", "engine.starts"}),
        ("engine.max_num_batched_tokens=1000", {"engine.block-over-budget"}),
        ("guard.output=false", {"guard.output"}),
        ("access.anonymous_scopes=[inference]", {"exposure.keys"}),
        ("model.revision=main", {"exposure.model-revision"}),
        ("engine.extra_args={kv_events_config: {enable_kv_cache_events: true}}", {"engine.kv-events"}),
        ("engine.mamba_ssm_cache_dtype=float16", {"engine.ssm-dtype"}),
    ],
)
def test_setting_breaks_rules_through_the_planner(assignment: str, rules: set[str], check: Check) -> None:
    code, document = check("--set", assignment)
    assert code == 1
    assert rules <= open_rules(document)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (None, 0, "note: access.keys_file {file} is not here, so it was not read"),
        ("", 0, "note: access.keys_file {file} has no key that is valid on 2026-11-23"),
        (f"old sha256:{'a' * 64} expires=2026-11-22\n", 0, "note: access.keys_file {file} has no key that is valid"),
        ("garbage\n", 2, "error: access.keys_file {file} line 1"),
    ],
)
def test_key_file_is_read_where_it_is(text: str | None, code: int, said: str, run: Run, tmp_path: Path) -> None:
    """Ready for production with a key file that the service refuses at its start would be wrong."""
    file = tmp_path / "keys.txt"
    if text is not None:
        file.write_text(text)
    ended, out, err = run("check", "-c", str(EXAMPLE), *DAY, "--set", f"access.keys_file={file}")
    assert ended == code
    assert said.format(file=file) in out + err


def test_usable_key_files_need_no_word(check: Check, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("keys", "guard")}
    files["keys"].write_text(f"alice sha256:{'a' * 64} expires=2026-11-23\n")
    assigned = ["--set", f"access.keys_file={files['keys']}", "--set", f"guard.api_key_file={files['guard']}"]
    assert [line.split()[0] for line in check(*assigned)[1]["key_files"]] == ["guard.api_key_file"]
    files["guard"].write_text("secret")
    assert check(*assigned)[1]["key_files"] == []


def test_warning_fails_only_with_strict(check: Check) -> None:
    warned = ["--set", "model.revision=null", "--profile", "demo"]
    code, document = check(*warned)
    assert (code, document["verdict"]) == (0, "warn")
    assert "license.revision" in open_rules(document)
    assert check(*warned, "--strict")[0] == 1


def test_what_the_plan_leaves_open_is_a_note(check: Check) -> None:
    """It is shown, and changes no verdict: otherwise no file with the plan's own flags would be clean."""
    code, document = check("--set", "engine.prefix_match_unit=null", "--strict")
    assert (code, document["verdict"]) == (0, "ready")
    assert open_rules(document) == {"engine.prefix-cache-granularity"}
    evidence = next(each["evidence"] for each in document["findings"] if "granularity" in each["rule"])
    assert "prefix_match_unit 32: needs hybridserve installed beside vLLM" in evidence
    _, document = check("--set", "engine.prefix_match_unit=null", "--set", "engine.max_model_len=1024")
    assert "engine.prefix-cache-unusable" in open_rules(document)


def test_a_missing_commit_is_named_before_its_consequences(check: Check) -> None:
    """Files that only a commit identifies: there is nothing to restore."""
    _, document = check("--set", "model.revision=null")
    fixes = {each["rule"]: each["remedy"] for each in document["findings"] if each["status"] == "UNKNOWN"}
    files = {"guard.chat-template", "guard.tokenizer", "guard.generation-config"}
    assert files <= fixes.keys()
    assert all(fixes[rule].startswith("set model.revision to the 40 hex digits of a commit") for rule in files)
    _, document = check("--set", "model.revision=null", "--set", "license.weights=mounted")
    fixes = {each["rule"]: each["remedy"] for each in document["findings"] if each["status"] == "UNKNOWN"}
    assert all("model.revision" not in fixes[rule] for rule in files), "no commit says what is on a volume"


def test_an_open_acceptance_names_the_model(check: Check) -> None:
    _, document = check("--set", "license.accepted=[]")
    found = {each["subject"]: each["evidence"] for each in document["findings"] if each["rule"] == "license.accepted"}
    assert found["apache-2.0"] == "nobody accepted it; it is the license of the guard qwen3guard-gen-4b"


@pytest.mark.parametrize(("profile", "code", "verdict"), [("production", 1, "refuse"), ("staging", 1, "refuse"),
                                                          ("demo", 0, "warn")])  # fmt: skip
def test_exit_code_depends_on_profile(profile: str, code: int, verdict: str, check: Check) -> None:
    actual, document = check("--set", "guard.kind=none", "--profile", profile)
    assert (actual, document["verdict"]) == (code, verdict)


def test_date_shows_what_expires(run: Run) -> None:
    code, out, _ = run("check", "-c", str(EXAMPLE), "--date", "2027-11-23")
    assert code == 1
    for text in ("license.accepted", "fix:", "production on 2027-11-23, vLLM 0.29.0: refuse"):
        assert text in out


@pytest.mark.parametrize("model", ["nemotron-nano-9b-v2", "qwen3-8b", "granite-4.0-h-tiny"])
def test_defaults_warn_in_demo_and_fail_in_production(model: str, run: Run) -> None:
    settings = ["--set", f"model.id={model}", "--set", "accelerator.name=h100", *DAY]
    assert run("check", *settings)[0] == 0
    code, out, _ = run("check", "--profile", "production", *settings)
    assert code == 1
    assert "guard.input" in out


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["check", "-c", "/nowhere.yaml"], "/nowhere.yaml"),
        (["check", "--set", "model.id=nobody-knows-this"], "model"),
        (["check", "--set", "license.about=/nowhere/about.md"], "license.about"),
        (["check", "--set", "license.bundle=/nowhere"], "license.bundle"),
        (["check", "--sarif", "/nowhere/x.sarif"], "/nowhere/x.sarif"),
        (["check", "--profile", "prod"], "--profile"),
        (["check", "-c", str(EXAMPLE), "--pins"], "model.source"),
        (["check", "--live", "here"], "--live"),
        (["check", "--live", "ftp://host"], "--live"),
        (["check", "--live", "http://127.0.0.1:99999"], "--live"),
        (["check", "--live", "http://127.0.0.1:1"], "http://127.0.0.1:1"),
        (["check", "--live", "http://127.0.0.1:1", "--guard-down", "http://"], "--guard-down"),
        (["check", "--guard-down", "http://127.0.0.1:1"], "--guard-down"),
        (["check", "--key-file", "key"], "--key-file"),
        (["check", "--set", "guard.evidence_file=/nowhere.json"], "guard.evidence_file"),
        (["explain", "guard.imput"], "guard.imput"),
        (["notice", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_wrong_input_exits_with_two_and_names_the_place(
    argv: list[str], where: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[0].startswith(f"error: {where}")
    assert "fix:" in err
    assert list(tmp_path.iterdir()) == []


def test_sarif_is_written(check: Check, tmp_path: Path) -> None:
    check("--sarif", str(tmp_path / "check.sarif"))
    assert json.loads((tmp_path / "check.sarif").read_text())["version"] == "2.1.0"


def test_notice_writes_the_same_files_each_time(run: Run, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        assert "wrote" in stdout(run("notice", str(folder), "-c", str(EXAMPLE)))
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == second
    assert b"Licensed by NVIDIA Corporation under the NVIDIA Open Model License\n" in first["NOTICE"]


@pytest.mark.parametrize(
    ("name", "proposed"),
    [("engine.ssm", "engine.ssm-dtype"), ("ssm-dtype", "engine.ssm-dtype"), ("guard.imput", "guard.input")],
)
def test_explain_proposes_what_was_meant(name: str, proposed: str, run: Run) -> None:
    code, _, err = run("explain", name)
    assert code == 2
    assert f"did you mean {proposed}?" in err


def test_explain(run: Run) -> None:
    assert "engine.seqs-over-blocks" in stdout(run("explain"))
    assert "49064" in stdout(run("explain", "engine.seqs-over-blocks"))
    assert json.loads(stdout(run("explain", "evidence.stream", "--json")))["family"] == "evidence"
    assert "Built with Llama" in stdout(run("explain", "llama-3.1"))
    cosmos = stdout(run("explain", "nvidia-open-model-2025-10-24")).splitlines()
    assert "service_line       when host, image, derivative; section 3.2; only for cosmos models" in cosmos
    assert len(json.loads(stdout(run("explain", "--json")))) > 60


def test_the_list_of_licenses_says_what_it_lacks(run: Run, check: Check) -> None:
    header, *rows = stdout(run("explain", "--licenses")).splitlines()
    assert header.split() == ["license", "review", "models"]
    assert any(row.split()[1:2] == ["unknown"] for row in rows)
    document = json.loads(stdout(run("explain", "--licenses", "--json")))
    assert rows[-1].endswith(", ".join(document["not_reviewed"]))
    assert {"gpt-oss-120b", "jamba-1.5-mini"} <= set(document["not_reviewed"])
    for model in ("nemotron-nano-9b-v2", "granite-4.0-h-tiny", "gpt-oss-20b", "jamba-1.5-mini"):
        unknown = "license.known" in open_rules(check("--set", f"model.id={model}", "--set", "model.revision=null")[1])
        assert unknown == (model in document["not_reviewed"]), model


def test_the_summary_names_the_engine_and_counts_every_rule_once(run: Run) -> None:
    totals = set()
    for changes in (["--set", "guard.kind=none"], ["--set", "engine.version=0.30.0"], []):
        last = run("check", "-c", str(EXAMPLE), *DAY, *changes)[1].splitlines()[-1]
        assert f"vLLM {'0.30.0' if 'engine.version=0.30.0' in changes else '0.29.0'}: " in last
        said = re.search(r"by (\d+) rules; (\d+) of (\d+) do not apply", last)
        assert said is not None
        applied, others, total = map(int, said.groups())
        assert applied + others == total
        totals.add(total)
    assert totals == {len(RULES)}


def test_the_summary_has_the_counts_of_the_document(run: Run, check: Check) -> None:
    """There is no FAIL beside "ready": a note is counted by itself, as is a rule that does not apply."""
    note = ["--set", "engine.prefix_match_unit=null"]
    lines = run("check", "-c", str(EXAMPLE), *DAY, *note)[1].splitlines()
    counts = check(*note)[1]["counts"]
    assert counts.keys() == {"PASS", "NOTE", "NOT_APPLICABLE"}
    assert f": ready ({counts['PASS']} PASS, 1 NOTE by " in lines[-1]
    assert f"; {counts['NOT_APPLICABLE']} of {len(RULES)} do not apply" in lines[-1]
    assert not [line for line in lines if "FAIL" in line]
    assert lines[0].startswith("NOTE    note    engine.prefix-cache-granularity ")


def test_notice_says_that_no_text_is_missing(run: Run, tmp_path: Path) -> None:
    assert "no license text has to be added" in stdout(run("notice", str(tmp_path / "a"), "-c", str(EXAMPLE)))
    baked = stdout(run("notice", str(tmp_path / "b"), "-c", str(EXAMPLE), "--set", "license.weights=baked"))
    assert "to add: NVIDIA Open Model License Agreement" in baked
    assert "no license text" not in baked


def test_the_model_and_the_origin_of_the_settings_are_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without -c the default settings are those of the demo model, whose notices would be the wrong ones."""
    monkeypatch.chdir(tmp_path)
    assert run("check", *DAY)[2] == ""
    Path("hybridserve.yaml").write_text("model: {id: qwen3-8b}\naccelerator: {name: l40s}\n")
    for words in (["notice", "notices"], ["check", *DAY], ["plan", "--gpu", "a10g,l40s"]):
        code, out, err = run(*words)
        assert (code, err) == (0, "note: ./hybridserve.yaml is not read; to read it add -c hybridserve.yaml\n")
        assert "qwen3" not in out
        assert words[0] == "plan" or "demo, settings from the defaults\n" in out
    for words in (["notice", "notices"], ["check", *DAY]):
        out = stdout(run(*words, "-c", "hybridserve.yaml", "--set", "server.port=8001"))
        assert "qwen3-8b, settings from hybridserve.yaml and --set\n" in out
        document = json.loads(stdout(run(*words, "-c", "hybridserve.yaml", "--json")))
        assert "qwen3-8b" in (document.get("model"), *document.get("models", ()))
        assert document["settings"] == "hybridserve.yaml"
    assert run("plan", "demo", "--gpu", "cpu")[2] == "", "an argument names the model"


@pytest.fixture
def services() -> Iterator[list[str]]:
    """Addresses of a correct service and of one whose guard is down."""
    servers, urls = [], []
    for service in (FakeService(), FakeService(guard_up=False)):
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        bound.listen(16)  # so that a request waits for the server instead of being refused
        server = uvicorn.Server(uvicorn.Config(service, log_level="error", lifespan="off"))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        servers.append((server, thread))
        urls.append(f"http://127.0.0.1:{bound.getsockname()[1]}")
    yield urls
    for server, thread in servers:
        server.should_exit = True
        thread.join(timeout=5)


def test_live_check_writes_evidence(services: list[str], tmp_path: Path, check: Check) -> None:
    url, down = services
    file = tmp_path / "evidence.json"
    code, document = check("--live", url, "--guard-down", down, "--evidence", str(file))
    assert (code, open_rules(document)) == (0, set())
    record = json.loads(file.read_text())
    assert is_intact(record)
    assert document["evidence_sha256"] == record["sha256"]
    assert record["about"]["guard"]["model"] == "Qwen/Qwen3Guard-Gen-4B"
    assert [row["canary"] for row in record["canaries"]] == [*(canary.id for canary in canary_set()), "guard-down"]


def test_live_check_finds_missing_and_failing_guards(services: list[str], tmp_path: Path, check: Check) -> None:
    url, down = services
    evidence = ["--evidence", str(tmp_path / "evidence.json")]
    code, document = check("--live", url, *evidence)
    assert (code, open_rules(document)) == (1, {"evidence.guard-down"})
    code, document = check("--live", down, "--guard-down", url, *evidence)
    assert code == 1
    assert {"evidence.must-block", "evidence.must-pass", "evidence.guard-down"} <= open_rules(document)


def test_pins(tmp_path: Path, run: Run) -> None:
    for name in ("tokenizer.json", "chat_template.jinja", "README.md", "model-00001-of-00001.safetensors"):
        (tmp_path / name).write_text(name)
    (tmp_path / "config.json").write_text(json.dumps(resolve_model("nemotron-nano-9b-v2").config))
    pins = yaml.safe_load(stdout(run("check", "--set", f"model.id={tmp_path}", "--pins")))["license"]["pinned_files"]
    assert pins == {name: sha256(name.encode()) for name in ("chat_template.jinja", "tokenizer.json",
                                                           "model-00001-of-00001.safetensors")}  # fmt: skip


def test_digest_of_the_evidence_file_is_in_the_document(tmp_path: Path, check: Check) -> None:
    body = {"schema": SCHEMA, "canaries": []}
    file = tmp_path / "evidence.json"
    file.write_text(json.dumps(seal_record(body)))
    _, document = check("--set", f"guard.evidence_file={file}")
    assert document["evidence_sha256"] == digest(body)


def test_check_imports_nothing_heavy() -> None:
    """`make bench-cli` measures the time."""
    program = (
        "import sys\n"
        "from hybridserve.cli import main\n"
        f"sys.argv = ['hybridserve', 'check', '-c', {str(EXAMPLE)!r}, '--json', '--date', '2026-11-23']\n"
        "try: main()\n"
        f"except SystemExit as stopped: print(stopped.code, [name for name in {HEAVY!r} if name in sys.modules],\n"
        "                                      file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "0 []"
