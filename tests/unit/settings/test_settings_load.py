"""Loading of settings from file, environment and flags."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridserve.errors import ConfigError
from hybridserve.settings import Option, Settings, load


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_default_settings() -> None:
    loaded = load(environ={})
    assert loaded.settings.model.id == "demo"
    assert loaded.settings.accelerator.name == "cpu"
    assert loaded.settings.server.host == "127.0.0.1"
    assert set(loaded.sources.values()) == {"default"}


def test_numbers_are_read_as_helm_writes_them(tmp_path: Path) -> None:
    """Go writes 1e-06, which YAML 1.1 takes for text. An exponent without a sign may be part of a digest."""
    text = "engine: {hf_overrides: {a: 1e-06, b: 1.5E+3, c: 123e45, d: -2e-7x}}\n"
    overrides = load(write(tmp_path / "h.yaml", text), environ={}).settings.engine.hf_overrides
    assert overrides == {"a": 1e-06, "b": 1500.0, "c": "123e45", "d": "-2e-7x"}


def test_precedence_is_flags_environment_file(tmp_path: Path) -> None:
    file = write(tmp_path / "h.yaml", "engine: {max_num_seqs: 1, max_model_len: 1, seed: 1}\n")
    environ = {"HYBRIDSERVE_ENGINE__MAX_NUM_SEQS": "2", "HYBRIDSERVE_ENGINE__MAX_MODEL_LEN": "2"}
    loaded = load(file, ["engine.max_num_seqs=3"], environ)
    engine = loaded.settings.engine
    assert (engine.max_num_seqs, engine.max_model_len, engine.seed) == (3, 2, 1)
    assert loaded.sources["engine.max_num_seqs"] == "flag --set"
    assert loaded.sources["engine.max_model_len"] == "env HYBRIDSERVE_ENGINE__MAX_MODEL_LEN"
    assert loaded.sources["engine.seed"] == f"file {file}"
    assert loaded.sources["server.port"] == "default"


def test_file_environment_and_flag_give_equal_settings(tmp_path: Path) -> None:
    tree = {
        "model": {"id": "x"},
        "engine": {"max_num_seqs": 7, "enable_prefix_caching": False, "hf_overrides": {"a": 1}},
        "server": {"port": 9000},
    }
    pairs = [(f"{section}.{key}", value) for section, keys in tree.items() for key, value in keys.items()]
    by_file = load(write(tmp_path / "h.yaml", json.dumps(tree)), environ={})
    by_flag = load(assignments=[f"{path}={json.dumps(value)}" for path, value in pairs], environ={})
    by_env = load(
        environ={
            "HYBRIDSERVE_" + path.upper().replace(".", "__"): value if isinstance(value, str) else json.dumps(value)
            for path, value in pairs
        }
    )
    assert by_file.settings == by_flag.settings == by_env.settings
    assert by_file.settings.engine.hf_overrides == {"a": 1}


@pytest.mark.parametrize(
    ("assignment", "where", "fix"),
    [
        ("engine.max_num_seq=3", "engine.max_num_seq", "engine.max_num_seqs"),
        ("engin.max_num_seqs=3", "engin", "engine"),
        ("server.prot=3", "server.prot", "server.port"),
        ("license.weigths=baked", "license.weigths", "license.weights"),
    ],
)
def test_unknown_key_error_suggests_the_closest(assignment: str, where: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[assignment], environ={})
    assert caught.value.where == where
    assert f"did you mean {fix}?" in caught.value.fix


def renamed_settings() -> list[tuple[str, str]]:
    """Old and new path of each setting in the changelog's upgrade table; a section's as one of its settings."""
    text = (Path(__file__).resolve().parents[3] / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.findall(r"^\| setting \| `([\w.]+)(?:\.\*)?` \| `([\w.]+)(?:\.\*)?` \|$", text, re.MULTILINE)


@pytest.mark.parametrize(("old", "new"), renamed_settings())
def test_a_renamed_setting_is_suggested_by_its_new_name(old: str, new: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[f"{old if '.' in old else f'{old}.weights'}=0.9"], environ={})
    assert f"did you mean {new}?" in caught.value.fix


@pytest.mark.parametrize(
    ("environ", "close"),
    [
        ({"HYBRIDSERVE_ENGIN__SEED": "1"}, "HYBRIDSERVE_ENGINE__"),
        ({"HYBRIDSERVE_SERVERPORT": "1"}, "HYBRIDSERVE_SERVER__"),
    ],
)
def test_unknown_environment_variable_is_refused(environ: dict[str, str], close: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    assert caught.value.where == next(iter(environ))
    assert close in caught.value.fix


def test_a_typo_in_a_variables_key_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"HYBRIDSERVE_ENGINE__MAX_NUM_SEQ": "1"})
    assert caught.value.where == "engine.max_num_seq"
    variable = "HYBRIDSERVE_ENGINE__MAX_NUM_SEQ"
    assert caught.value.fix == f"did you mean {variable}S?; it was set by the environment variable {variable}"


def test_a_fault_of_a_file_names_its_line(tmp_path: Path) -> None:
    text = """\
# a comment
acelerator: {name: h100}
engine:
  version: 0.29.0
  max_num_seqs: "many"
license:
  accepted:
    - {license: apache-2.0, by: A, accepted: 2026-11-20}
    - license: mit
      bye: A
      accepted: 2026-11-20
scaling:
  min_replicas: 3
  max_replicas: 2
"""
    file = write(tmp_path / "h.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    fixes = {each.where: each.fix for each in (caught.value, *caught.value.others)}
    assert fixes["acelerator"] == f"did you mean accelerator?; it was set by file {file}, line 2"
    assert fixes["engine.max_num_seqs"].endswith(f"it was set by file {file}, line 5")
    assert fixes["license.accepted.1.bye"] == f"did you mean license.accepted.1.by?; it was set by file {file}, line 10"
    assert fixes["license.accepted.1.by"].endswith(f"line {9}")
    assert fixes["scaling"].endswith(f"it was set by file {file}, line 13 and file {file}, line 14")


@pytest.mark.parametrize(
    ("path", "value", "share"),
    [
        ("engine.gpu_memory_utilization", 92, "0.92"),
        ("engine.gpu_memory_utilization", "92%", "0.92"),
        ("engine.watermark", 5, "0.05"),
        ("guard.retry_budget", 12.5, "0.125"),
        ("engine.gpu_memory_utilization", 920, None),
        ("engine.gpu_memory_utilization", -1, None),
        ("engine.gpu_memory_utilization", 1.5, None),
        ("server.port", "80%", None),
    ],
)
def test_a_percentage_for_a_share_suggests_the_share(path: str, value: object, share: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={}, options=[Option("--typed", path, value)])
    assert (f": {share}?" in caught.value.fix) if share else ("?" not in caught.value.fix)
    assert caught.value.fix.endswith("it was set by --typed")


@pytest.mark.parametrize(
    ("assignment", "meant"),
    [("model.max_num_seqs=3", "engine.max_num_seqs"), ("max_num_seqs.a=3", "engine.max_num_seqs")],
)
def test_a_setting_of_another_section_is_found(assignment: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[assignment], environ={})
    assert caught.value.fix.startswith(f"did you mean {meant}?")


@pytest.mark.parametrize("assignment", ["engine.quantization=fp8", "engine.dtype=fp8"])
def test_a_quantization_is_sent_to_the_extra_arguments(assignment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[assignment], environ={})
    written = re.search(r"--set '(engine\.extra_args=.*?)'", caught.value.fix)
    assert written, caught.value.fix
    assert load(assignments=[written[1]], environ={}).settings.engine.extra_args == {"quantization": "fp8"}
    assert "gpu_memory_utilization" not in caught.value.fix


def test_broken_yaml_is_named_by_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("model:\n  id: demo\n engine: x\n")
    with pytest.raises(ConfigError, match="line 3, column 2") as caught:
        load(file, environ={})
    assert "unicode" not in caught.value.what


def test_an_option_is_overridden_by_an_assignment() -> None:
    options = [Option("--gpu", "accelerator.name", "a10g"), Option("--tp", "engine.tensor_parallel_size", None)]
    loaded = load(assignments=["accelerator.name=h100"], environ={}, options=options)
    assert loaded.settings.accelerator.name == "h100"
    assert loaded.sources["accelerator.name"] == "flag --set"
    assert load(environ={}, options=options).sources["accelerator.name"] == "flag --gpu"
    assert loaded.sources["engine.tensor_parallel_size"] == "default"


@pytest.mark.parametrize(
    ("assignment", "where"),
    [
        ("server.port=0", "server.port"),
        ("server.port=65536", "server.port"),
        ("engine.max_num_seqs=many", "engine.max_num_seqs"),
        ("engine.gpu_memory_utilization=1.5", "engine.gpu_memory_utilization"),
    ],
)
def test_invalid_value_error_names_path_and_source(assignment: str, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[assignment], environ={})
    assert caught.value.where == where
    assert assignment.partition("=")[2] in caught.value.what
    assert caught.value.fix.startswith(f"set {where} to a ")
    assert caught.value.fix.endswith("; it was set by --set")


@pytest.mark.parametrize(
    ("text", "where", "what", "fix"),
    [
        ("engin: {version: 1}", "engin", "is not a setting", "did you mean engine?; it was set by file {file}, line 1"),
        ("engine: [1]", "engine", "[1] is not a mapping", "engine has version, "),
        ("engine: {dtype: int8}", "engine.dtype", "'int8' is not 'auto', 'float32', ", "set engine.dtype to 'auto', "),
    ],
)
def test_fault_of_a_file_names_value_fix_and_file(text: str, where: str, what: str, fix: str, tmp_path: Path) -> None:
    file = tmp_path / "hybridserve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert caught.value.where == where
    assert what in caught.value.what
    assert fix.format(file=file) in caught.value.fix
    assert f"file {file}" in caught.value.fix


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=["server.port=0", "engine.max_num_seqs=0"], environ={})
    told = [caught.value, *caught.value.others]
    assert {each.where for each in told} == {"server.port", "engine.max_num_seqs"}
    assert all(each.fix.startswith(f"set {each.where} to a number ") for each in told)
    assert [each["where"] for each in caught.value.as_dict()["others"]] == [told[1].where]


def test_min_replicas_above_max_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=["scaling.min_replicas=3", "scaling.max_replicas=2"], environ={})
    assert caught.value.where == "scaling"
    assert "min_replicas 3" in caught.value.what


@pytest.mark.parametrize(
    ("content", "what"),
    [("[1, 2]", "not a mapping"), ("engine: {", "not valid YAML"), ("1: 2", "not a mapping")],
)
def test_invalid_settings_file_is_an_error(tmp_path: Path, content: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "h.yaml", content), environ={})
    assert what in caught.value.what


def test_repeated_section_is_refused(tmp_path: Path) -> None:
    """The YAML parser would keep the last: lines that are pasted below a file would undo its profile."""
    text = "server:\n  profile: production\nengine: {seed: 1}\nserver:\n  host: 0.0.0.0\n"
    with pytest.raises(ConfigError, match=r"line 4, column 1: 'server' is in line 1 already"):
        load(write(tmp_path / "h.yaml", text), environ={})
    with pytest.raises(ConfigError, match=r"line 1, column 19: 'seed' is in line 1 already"):
        load(write(tmp_path / "h.yaml", "engine: {seed: 1, seed: 2}\n"), environ={})
    # A key may replace the one that it is merged with.
    merged = "engine: {<<: {seed: 1}, seed: 2}\n"
    assert load(write(tmp_path / "h.yaml", merged), environ={}).settings.engine.seed == 2


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", environ={})
    assert "No such file" in caught.value.what


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("a:\n\tb: 1\n", "line 2, column 1 is a tab", "indent with spaces"),
        ("a: 1\n\tb: 2\n", "line 2, column 1 is a tab", "indent with spaces"),
        ("a: |\n\tb\n", "line 2, column 1 is a tab", "indent with spaces"),
        ("a: @b\n", "line 1, column 4: no value begins with @", "put the value in quotes"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed in this context", "correct the file"),
    ],
)
def test_the_common_mistakes_of_yaml_name_their_fix(text: str, what: str, fix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path / "h.yaml", text), environ={})
    assert caught.value.what == f"is not valid YAML: {what}"
    assert caught.value.fix == fix


@pytest.mark.parametrize("text", ["", "# model: {id: x}\n"])
def test_a_file_without_settings_is_refused(text: str, tmp_path: Path) -> None:
    """Silence would let a person believe that the demo model, the default, is theirs."""
    with pytest.raises(ConfigError, match="has no settings"):
        load(write(tmp_path / "h.yaml", text), environ={})
    assert load(write(tmp_path / "h.yaml", "{}"), environ={}).settings.model.id == "demo"


@pytest.mark.parametrize(
    ("assignment", "fix"),
    [
        ("max_num_seqs=8", "write --set engine.max_num_seqs=8"),
        ("revision=main", "write --set model.revision=main or --set guard.revision=main"),
        ("nothing=8", "write --set section.key=value"),
    ],
)
def test_an_assignment_without_a_section_names_it(assignment: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=[assignment], environ={})
    assert caught.value.fix == fix


@pytest.mark.parametrize("assignment", ["nonsense", "=1", "engine=", ".x=1", "engine..seed=1"])
def test_invalid_assignment_is_an_error(assignment: str) -> None:
    with pytest.raises(ConfigError):
        load(assignments=[assignment], environ={})


@given(
    st.dictionaries(
        st.sampled_from([*Settings.model_fields, "engin", ""]),
        st.recursive(
            st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=4
        ),
    )
)
def test_any_file_loads_or_raises_config_error(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    file = write(tmp_path_factory.mktemp("any") / "h.yaml", json.dumps(tree))
    try:
        load(file, environ={})
    except ConfigError as refused:
        told = refused
    else:
        return
    assert told.where
    assert told.fix


@pytest.mark.parametrize(
    "wrong",
    [
        {"access": {"limits_url": "rediss://:hunter2@limits:6380/0"}},
        {"guard": {"kind": "model", "url": "https://user:hunter2@guard/v1"}},
        {"guard": {"url": "user:hunter2@guard/v1"}},
        {"engine": {"hf_token": "hf_HUNTER2hunter2"}},
    ],
)
def test_an_error_prints_no_password_of_a_url(wrong: dict[str, object], tmp_path: Path) -> None:
    file = tmp_path / "hybridserve.yaml"
    file.write_text(json.dumps(wrong))
    with pytest.raises(ConfigError) as refused:
        load(file, ())
    for error in (refused.value, *refused.value.others):
        assert "hunter2" not in f"{error.where} {error.what} {error.fix}"


def test_an_empty_address_of_the_guard_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"guard\.url"):
        load(None, ['guard.url=""'], environ={})
