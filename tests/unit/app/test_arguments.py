from __future__ import annotations

from pathlib import Path

import pytest

from medcodi.app.arguments import (
    numbered_folder,
    read_prompts,
    read_targets,
    read_weak,
    read_weights,
    refuse_full_folder,
)
from medcodi.errors import ConfigError, DataError, PromptError
from medcodi.model.generation_config import WeakModelConfig


def test_prompts_are_paths_and_texts() -> None:
    assert read_prompts(["frontal=a/b=c.dcm", "report=Clear lungs. Heart=normal."]) == {
        "frontal": "a/b=c.dcm",
        "report": "Clear lungs. Heart=normal.",
    }
    assert read_prompts([]) == {}


def test_a_default_folder_is_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert numbered_folder("generated") == Path("generated")
    for folder in ("generated", "generated-2", "generated-3"):
        Path(folder).mkdir()
    (tmp_path / "generated" / "report.txt").write_text("Clear.")
    assert numbered_folder("generated") == Path("generated-2")  # it is empty
    (tmp_path / "generated-2" / "report.txt").write_text("Clear.")
    assert numbered_folder("generated") == Path("generated-3")


def test_a_text_prompt_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Kleiner Erguß.", encoding="utf-8")
    assert read_prompts([f"report=@{tmp_path}/report.txt"]) == {"report": "Kleiner Erguß."}
    (tmp_path / "report.txt").write_text("Kleiner Erguß.", encoding="utf-8-sig")  # with a byte order mark
    assert read_prompts([f"report=@{tmp_path}/report.txt"]) == {"report": "Kleiner Erguß."}
    assert read_prompts(["frontal=@odd.png"]) == {"frontal": "@odd.png"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["chest.png"], "--prompt 'chest.png' is invalid.*modality=value"),
        (["frontl=x.png"], "unknown modality 'frontl'.*did you mean 'frontal'"),
        (["frontal=a.png", "frontal=b.png"], "names frontal twice"),
        (["report=@nowhere.txt"], "the report nowhere.txt cannot be read: No such file"),
        (["=x"], "unknown modality ''"),
    ],
)
def test_bad_prompts_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        read_prompts(texts)


def test_a_binary_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="not UTF-8 text"):
        read_prompts([f"report=@{tmp_path}/report.txt"])


def test_weights() -> None:
    assert read_weights(["report=0.5", "frontal=2"]) == {"report": 0.5, "frontal": 2.0}
    assert read_weights([]) is None
    with pytest.raises(PromptError, match="--weight report='half' is not a number"):
        read_weights(["report=half"])


def test_targets_in_table_order_repeated_or_joined() -> None:
    assert read_targets(["report", "frontal"]) == read_targets(["report,frontal"]) == ("frontal", "report")
    assert read_targets([]) is None
    with pytest.raises(PromptError, match="'ct'"):
        read_targets(["ct"])


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    refuse_full_folder(tmp_path)
    refuse_full_folder(tmp_path / "new")
    (tmp_path / "old.png").touch()
    for taken in (tmp_path, tmp_path / "old.png"):
        with pytest.raises(DataError, match="is not empty"):
            refuse_full_folder(taken)


def test_a_weak_model_is_named_with_its_settings() -> None:
    assert read_weak([]) is None
    assert read_weak(["model=early", "scale=1.5"]) == WeakModelConfig(model="early", scale=1.5)
    with pytest.raises(ConfigError, match="--weak.*scal"):
        read_weak(["model=early", "scal=1.5"])
    with pytest.raises(ConfigError, match="--weak"):
        read_weak(["scale=1.5"])
