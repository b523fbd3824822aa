"""What `medcodi evaluate` is told, as the values of an evaluation config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from medcodi.config import read_yaml
from medcodi.data.dataset import read_info
from medcodi.errors import ConfigError
from medcodi.model.files import read_index
from medcodi.model.shipped import demo_checkpoint

NUM_STUDIES = 200  # of the phantom, where nobody says otherwise


def evaluation_values(
    config: Path | None,
    *,
    model: str | None,
    data: str | None,
    out_dir: Path | None,
    systems: Mapping[str, str] | None = None,
    preset: str | None = None,
    exclude: bool = False,
) -> dict[str, Any]:
    """Plain values: those of the file, and what the options replace.

    Args:
        config: YAML file; None: held-out phantoms of the model's own image size.
        model: Model folder or hub repository; None: as the file says, else the shipped demo.
        data: Prepared dataset in the place of the file's (split, number of studies and image size stay as the file says; without it: the
            test split, at the size it was prepared at); None: as the file says, else phantoms.
        out_dir: Folder of the results; None: as the file says.
        systems: Name -> folder or CSV of what other systems generated, beside those of the file.
        preset: Of generation; None: as the file says.
        exclude: Whether what cannot be read is listed and left out.

    Raises:
        ConfigError: If there is no such file, or it cannot be read.
        CheckpointError: If the model is needed for its image size, and cannot be found.
        DataError: If the prepared dataset is needed for its image size, and cannot be found.
    """
    values = read_yaml(config) if config else {}
    if model is not None:
        values["model"] = model
    if out_dir is not None:
        values["out"] = str(out_dir)
    if systems:
        values["systems"] = {**(values.get("systems") or {}), **systems}
    if preset is not None:
        values["preset"] = preset
    if exclude:
        values["exclude_unreadable"] = True
    if data is not None:
        told = {name: value for name, value in (values.get("data") or {}).items() if name not in ("path", "source")}
        values["data"] = {"split": "test", **told, "path": data}
        if "image_size" not in told:
            values["data"]["image_size"] = int(read_info(data)["image_size"])
    elif "data" not in values:
        _, index = read_index(values.get("model") or demo_checkpoint())
        size = index["config"]["image_size"]
        values["data"] = {"split": "test", "image_size": size, "source": "phantom", "num_studies": NUM_STUDIES}
    return values


def named_systems(
    generated: Path | None, system: str | None, systems: Sequence[str], settings: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Systems by name, and the settings without them.

    Behind ``--systems A=here``, a further ``B=there`` is a system too, unless B is a setting.

    Args:
        generated: Of ``--generated``.
        system: Its name; None: that of the folder or file.
        systems: Of ``--systems``: NAME=PATH.
        settings: KEY=VALUE of the command line.

    Raises:
        ConfigError: If a system has no name or path, or one name stands for two.
    """
    from medcodi.evaluation.options import EvaluateConfig

    known = {field.name for field in fields(EvaluateConfig)}  # type: ignore[arg-type]
    kept = [one for one in settings if not systems or one.partition("=")[0].split(".")[0] in known]
    told = [*systems, *(one for one in settings if one not in kept)]
    if generated is not None:
        told.insert(0, f"{system or generated.stem}={generated}")
    elif system is not None:
        raise ConfigError(f"--system {system} names nothing", fix="say where its output lies: --generated DIR")
    found: dict[str, str] = {}
    for one in told:
        name, equals, path = one.partition("=")
        if not equals or not name or not path:
            raise ConfigError(f"{one!r} names no system", expected="NAME=PATH", fix="--systems RoentGen=theirs/")
        if name in found:
            raise ConfigError(f"two systems are named {name!r}", fix="give each its own name")
        found[name] = path
    return found, kept
