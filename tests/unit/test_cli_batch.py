"""Run files: what `run` and `submit` accept, and how they refuse the rest, by file, line, entry and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from o9.cli.batch import read_batch
from o9.model.errors import OptimizationError
from o9.model.optimization import OptimizationState
from o9.model.states import OptimizationPriority, OptimizationType
from o9.strategies.registry import register_strategy


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def write(text: str | bytes, name: str = "batch.yaml") -> str:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


def refusal(text: str | bytes) -> str:
    with pytest.raises(OptimizationError) as caught:
        read_batch([write(text)])
    message = str(caught.value)
    assert all(line.startswith("batch.yaml") for line in message.split("\n"))
    return message


def test_one_mapping_is_one_optimization_with_defaults() -> None:
    (state,) = read_batch([write("metadata: {objective: branin}")])
    assert state.name == "branin"
    assert state.optimization_id.startswith("branin-2")
    assert state.optimization_type is OptimizationType.PARAMETER_TUNING
    assert state.priority is OptimizationPriority.NORMAL
    assert state.description == ""


def test_a_list_is_a_batch_and_each_gets_an_id_of_its_own() -> None:
    states = read_batch([write("- {name: Mean reversion, metadata: {objective: branin}}\n" * 3)])
    ids = {state.optimization_id for state in states}
    assert len(ids) == 3
    assert all(name.startswith("mean-reversion-") for name in ids)


def test_several_files_are_one_batch() -> None:
    first = write("metadata: {objective: branin}", "a.yaml")
    second = write("- metadata: {objective: ackley}", "b.yaml")
    assert [state.name for state in read_batch([first, second])] == ["branin", "ackley"]


@pytest.mark.parametrize(("name", "stem"), [("趋势跟踪", "branin"), ("🚀", "branin"), ("Café 2", "cafe-2")])
def test_names_in_any_script_stay_and_ids_are_plain(name: str, stem: str) -> None:
    (state,) = read_batch([write(f"{{name: {name}, metadata: {{objective: branin}}}}")])
    assert state.name == name
    assert state.optimization_id.isascii()
    assert state.optimization_id.startswith(f"{stem}-2")


def test_a_file_without_a_name_or_objective_is_called_after_itself() -> None:
    async def evening(optimization: OptimizationState) -> None:
        """Nothing to do."""

    register_strategy("of-the-evening", evening)
    (state,) = read_batch([write("metadata: {strategy: of-the-evening}", "evening run.yaml")])
    assert state.name == "evening run"
    assert state.optimization_id.startswith("evening-run-")


def test_values_are_read_as_json_would() -> None:
    text = """
    priority: high
    created_at: 2026-01-31
    metadata:
      objective: branin
      search_space: {x: {type: float, low: 1e-3, high: .5}, y: {type: categorical, choices: [no, 010, 1:30, true, ~]}}
    """
    (state,) = read_batch([write(text)])
    assert state.priority is OptimizationPriority.HIGH
    assert state.created_at.astimezone().day == 31
    assert state.metadata["search_space"]["x"]["low"] == 0.001
    assert state.metadata["search_space"]["y"]["choices"] == ["no", 10, "1:30", True, None]


def test_an_objective_in_the_current_directory_is_found() -> None:
    write("def objective(parameters): return 1.0", "desk_strategy_a.py")
    space = "{x: {type: int, low: 1, high: 3}}"
    (state,) = read_batch([write(f"metadata: {{objective: 'desk_strategy_a:objective', search_space: {space}}}")])
    assert state.optimization_id.startswith("objective-")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "contains no optimization"),
        ("# nothing\n", "contains no optimization"),
        ("[]", "contains no optimization"),
        ("hello", "contains no optimization"),
        ("- hello", "entry 1, line 1: expected a mapping"),
        ("- {total_steps: 1}\n- {}", "entry 2, line 2: metadata.objective: it is missing"),
        ("a: 1\n---\nb: 2", "2 documents"),
        ("name: [", "line 2: not YAML"),
        ("name: a\nname: b", "line 2: name: duplicate"),
        ("? [a, b]\n: 1", "must be a string"),
        ("a: &a [*a]", "contains itself"),
        ("nmae: a", "line 1: nmae: there is no such field; did you mean name?"),
        ("sampler: tpe", "line 1: sampler: there is no such field; it belongs under metadata"),
        ("progress: 0.5", "line 1: progress: there is no such field"),
        ("name: a\npriority: urgent", "line 2: priority: 'urgent' is not one of low (1), normal (2), high (3)"),
        ("optimization_type: magic", "parameter_tuning"),
        ("total_steps: -1", "total_steps"),
        ("total_steps: ten", "total_steps"),
        ("metadata: 5", "metadata"),
        ("status: running", "status"),
        ("created_at: yesterday", "ISO 8601"),
        ("metadata:\n  objective: brainn", "line 2: metadata.objective: there is no objective 'brainn'; did you mean"),
        ("metadata:\n  objective: branin\n  sampler: magic", "line 3: metadata.sampler"),
        (
            "metadata:\n  objective: branin\n  hold_out: 0",
            "line 3: metadata.hold_out: expected a share",
        ),
        (
            "metadata:\n  objective: branin\n  placebo: 19",
            "metadata.placebo: there is no such key",
        ),
        ("metadata: {search_space: {x: {type: int, low: 1, high: 2, stepp: 1}}}", "did you mean step?"),
        ("metadata: {search_space: {x: {low: 1, high: 2}}}", "it is missing; give one of int, float, categorical"),
        ("metadata: {strategy: magic}", "metadata.strategy"),
        ("metadata: {objective: 'nowhere_to_be_found:f'}", "nowhere_to_be_found"),
        ("parameters: {x: .nan}", "parameters"),
        ("parameters: {x: !!int abc}", "line 1"),
        ("parameters: {x: !!python/object:os.system ls}", "line 1"),
        ("name: !!binary aGVsbG8=", "name"),
        (b"name: \xff\xfe\xfa", "batch.yaml"),
        ("name: \0", "batch.yaml"),
        ("a: " + "[" * 500 + "]" * 500, "nested"),
        ("a: " + "[" * 100_000, "batch.yaml"),
        (b"name: " + b"x" * 10_000_000, "larger than"),
        ("x: 1" + "0" * 5000, "batch.yaml"),
    ],
)
def test_what_cannot_be_submitted_is_refused_by_place(text: str | bytes, told: str) -> None:
    assert told in refusal(text)


def test_a_field_that_cannot_be_read_hides_no_other_fault() -> None:
    told = refusal("priority: urgent\noptimization_type: x\ntotal_steps: -1\nmetadata: {objective: brain, seed: seven}")
    assert all(f"line {line}:" in told for line in (1, 2, 3, 4))
    assert told.count("priority") == 1


def test_all_faults_of_all_entries_are_told_at_once_each_with_its_line() -> None:
    text = """
- nmae: first
  total_steps: -1
  metadata:
    objective: branin
    dirction: minimize
    sede: 7
    pruner: median
    notes: free
    tags: [desk, 3]
- metadata:
    objektive: branin
    sampler: magic
    direction: up
    total_steps: 3
"""
    places = [line.partition(", line ")[2].split(": ")[:2] for line in refusal(text).split("\n")]
    assert sorted(places) == sorted(
        [line, field]
        for line, field in [
            ("2", "nmae"), ("3", "total_steps"), ("6", "metadata.dirction"),
            ("7", "metadata.sede"), ("8", "metadata.pruner"), ("12", "metadata.objektive"),
            ("13", "metadata.sampler"), ("14", "metadata.direction"), ("15", "metadata.total_steps"),
            ("11", "metadata.objective"),
        ]
    )  # fmt: skip
    assert "did you mean direction?" in refusal(text)
    both = "metadata: {objective: brainn, sampler: magic, strategy: optuna, sede: 1, score: nowhere, hold_out: 0}"
    fields = [line.split(": ")[1].removeprefix("metadata.") for line in refusal(both).split("\n")]
    assert sorted(fields) == ["hold_out", "objective", "sampler", "score", "sede"]


def test_a_file_names_what_to_optimize() -> None:
    for text in ("name: a", "metadata: {strategy: optuna, seed: 1}", "metadata: {objective: ~}"):
        assert "metadata.objective: it is missing" in refusal(text)


def test_the_line_is_that_of_the_field_in_its_entry() -> None:
    text = """
- metadata: {objective: branin}
- name: second
  metadata:
    objective: branin
    search_space:
      fast: {type: int, low: 1, high: 9}
      slow: {type: int, low: 9, high: 1}
"""
    assert refusal(text).startswith("batch.yaml, entry 2, line 8: metadata.search_space.slow")


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10))
    assert "aliases expanded" in refusal(f"l0: &l0 [x, x]\n{levels}")


def test_the_same_id_twice_is_refused_before_anything_else() -> None:
    entry = "- {optimization_id: same, metadata: {objective: branin}}\n"
    assert "entry 2, line 2: optimization_id: 'same' is already in batch.yaml, entry 1" in refusal(entry * 2)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(OptimizationError, match=r"nowhere\.yaml cannot be read: No such file"):
        read_batch(["nowhere.yaml"])
    Path("folder").mkdir()
    with pytest.raises(OptimizationError, match="folder cannot be read"):
        read_batch(["folder"])
