"""A model card: Markdown with a YAML header, made from what a model's folder says of itself and from the bundles that judged it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medcodi.data.domain import PHANTOM, REAL, Domain
from medcodi.errors import CheckpointError, DataError
from medcodi.model.adapter import promises
from medcodi.model.identity import index_sha256
from medcodi.model.index import INDEX, read_index
from medcodi.storage import atomic
from medcodi.storage.checked_json import foreign, parse_json

CARD = "README.md"
BUNDLE, RESULTS, AUDIT_SECTION = "bundle.json", "results.json", "card.md"  # files of a bundle
# The last line of every card; a card whose text has another hash was changed by a person, and is never replaced.
_SIGNED = re.compile(
    r"\A(?P<text>.*)<!-- medcodi card, SHA-256 of the text above: (?P<sha256>[0-9a-f]{64}) -->\n\Z", re.S
)
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")  # of a dataset: shown by its beginning


def model_card(
    source: str | Path,
    *,
    evaluation: str | Path | None = None,
    audit: str | Path | None = None,
    repository: str = "",
    judged_as: str = "",
) -> str:
    """The card of a model folder.

    Args:
        source: Model folder, ``demo``, or a hub repository.
        evaluation: Bundle of ``medcodi evaluate`` with a system that is this model.
        audit: Bundle of ``medcodi audit`` of this model.
        repository: ``owner/name`` on the hub, for the example of its use.
        judged_as: A further identity that the bundles may name: the model's before its weights were rounded.

    Raises:
        CheckpointError: If there is no model.
        DataError: If a bundle is missing, was changed after it was written, or judges another model.
    """
    folder, index = read_index(source)
    identity, provenance = index_sha256(index), index.get("provenance", {})
    with foreign(
        str(folder / INDEX), CheckpointError, expected="an index as save_pretrained writes it", fix="fetch it again"
    ):
        about, training = _about(index, identity, provenance), _training(provenance)
    # What was measured; a card says it where nothing was.
    identities = {identity, judged_as} - {""}
    results, figures = _evaluated(Path(evaluation), identities) if evaluation else ([], _NOT_EVALUATED)
    disclosure = _audited(Path(audit), identities) if audit else _NOT_AUDITED
    load = f'model = medcodi.MedCoDi.from_pretrained("{repository or "path/of/this/folder"}")'
    name, domain = str(index["config"].get("name", "model")), Domain.of(provenance)
    text = "\n".join(
        [
            "---",
            yaml.safe_dump(_header(name, results), sort_keys=False, allow_unicode=True, width=120).rstrip(),
            *("---", "", f"# {_cell(name)}", ""),
            "Any-to-any generation of chest examinations. **Research only**: what it generates is synthetic, and not for diagnosis.",
            *("", *about, "", *training, *figures, "", *disclosure, "", *_limits(domain), ""),
            *("## Use", "", "```python", "import medcodi", "", load, "```", ""),
        ]
    )  # fmt: skip
    return f"{text}<!-- medcodi card, SHA-256 of the text above: {_sha256(text)} -->\n"


def check_bundles(identity: str, evaluation: str | Path | None, audit: str | Path | None) -> None:
    """Refuse bundles that :func:`model_card` would refuse, before a model is written."""
    if evaluation:
        _evaluated(Path(evaluation), {identity})
    if audit:
        _audited(Path(audit), {identity})


def write_card(text: str, path: Path) -> bool:
    """Write a card, unless the file is there and was written or changed by a person; whether it was written."""
    if path.exists() and not is_generated(path):
        return False
    atomic.write_text(path, text, error=CheckpointError)
    return True


def is_generated(path: Path) -> bool:
    """Whether a file is a card of :func:`model_card` that nobody has changed since."""
    try:
        signed = _SIGNED.match(path.read_bytes().decode())
    except (OSError, ValueError):
        return False
    return signed is not None and _sha256(signed["text"]) == signed["sha256"]


# ---- sections --------------------------------------------------------------------------------------------------------
_NOT_EVALUATED = [
    "## Evaluation",
    "",
    "None was given to this card (`medcodi card MODEL --evaluation BUNDLE`): how well it does is unknown.",
]
_NOT_AUDITED = [
    "## Privacy audit", "",
    "None was given to this card (`medcodi card MODEL --audit BUNDLE`): whether it discloses studies of its training is unknown.",
]  # fmt: skip


def _header(name: str, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The YAML header, as the hub reads it."""
    header: dict[str, Any] = {
        "library_name": "medcodi",
        "pipeline_tag": "any-to-any",
        "tags": ["chest-x-ray", "any-to-any"],
        "model_name": f"{name}, a MedCoDi model",
    }
    if results:
        header["model-index"] = [{"name": name, "results": list(results)}]
    return header


def _about(index: Mapping[str, Any], identity: str, provenance: Mapping[str, Any]) -> list[str]:
    """The model, what it was trained on, and under whose agreement."""
    config = index["config"]
    domain, attestation = Domain.of(provenance), provenance.get("attestation")
    sampling = config.get("generation") or {}
    settings = [f"{sampling[key]} {words}" for key, words in _SAMPLING.items() if sampling.get(key) is not None]
    rows: dict[str, Any] = {
        "generates": ", ".join(config.get("modalities") or ["frontal", "lateral", "report"]),
        "images": f"{config['image_size']} × {config['image_size']} pixels",
        "parameters": f"{sum(entry.get('num_parameters', 0) for entry in index['components'].values()) / 1e6:,.1f} M",
        "stages": ", ".join(index["trained_stages"]) or "none",
        "generates best with": ", ".join(settings) or "unknown",
        "identity": identity,
        "trained on": "unknown"
        if domain is None
        else f"{domain.origin} studies ({', '.join(domain.sources) or 'unnamed'})",
    }
    if domain is not None:
        rows["findings in training"] = ", ".join(domain.findings) or "unknown"
        rows["use agreement"] = domain.agreement or "none known"
    if promised := promises(provenance):
        rows["differential privacy"] = promised
    if attestation is not None:
        rows["attestation"] = f"{attestation['attested_by']}: {attestation['statement']}"
    return _table(["", ""], rows.items())


_SAMPLING = {  # of the model's own generation config
    "sampler": "sampler",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "order": "order of several targets",
}


def _training(provenance: Mapping[str, Any]) -> list[str]:
    """Steps and data of each stage, where the index names them."""
    stages = provenance.get("training") or {}
    if not stages:
        return []
    columns = ("steps", "studies", "seed", "data")
    rows = [
        [stage, *(_HASH.sub(r"\1…", str(entry.get(column, "–"))) for column in columns)]
        for stage, entry in stages.items()
    ]
    return ["## Training", "", *_table(["stage", *columns], rows), ""]


def _evaluated(folder: Path, identities: set[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures of an evaluation: as the hub's header has them, and as a section."""
    digest, results = _results(folder, "medcodi evaluate")
    with foreign(str(folder / RESULTS), expected="results of medcodi evaluate", fix="evaluate again"):
        own = {name: entry for name, entry in results["systems"].items() if entry.get("sha256") in identities}
        if not own:
            judged = ", ".join(
                f"{name} ({str(entry.get('sha256'))[:12]})" for name, entry in results["systems"].items()
            )
            raise _another(folder, f"evaluates {judged}", identities, "medcodi evaluate --model MODEL --out BUNDLE")
        data, rows, header = results["data"], [], []
        for system, entry in own.items():
            for direction, scores in entry["directions"].items():
                primary, model = scores["primary"], scores["primary"].get("model") or {}
                floor = (primary.get("shuffled") or {}).get("value")
                interval = f" [{model['low']:.2f}, {model['high']:.2f}]" if model.get("low") is not None else ""
                shares = [_number(primary.get(key)) for key in ("ceiling", "fraction_of_ceiling")]
                named = [system] if len(own) > 1 else []
                figure = _number(model.get("value")) + interval
                rows.append([*named, _arrow(direction), scores["num_studies"], figure, _number(floor), *shares])
                if model.get("value") is not None:
                    header.append(_hub_result(direction, str(data["name"]), model["value"]))
    columns = [
        *(["system"] if len(own) > 1 else []),
        "direction",
        "studies",
        "macro F1",
        "floor",
        "ceiling",
        "share of ceiling",
    ]
    return header, [
        "## Evaluation", "",
        f"Held-out studies of `{_cell(str(data['name']))}`. Macro F1 of the findings that are read from what was generated, with 95 % intervals over "
        "patients; floor: the same samples against other patients' truth; ceiling: the same annotators on the real targets.", "",
        *_table(columns, rows), "",
        f"`medcodi evaluate --verify BUNDLE` computes the figures again (`results.json`: SHA-256 `{digest[:12]}`).",
    ]  # fmt: skip


def _hub_result(direction: str, data: str, value: float) -> dict[str, Any]:
    metric = {"type": "f1", "name": "macro F1 of findings", "value": round(value, 4)}
    return {
        "task": {"type": "any-to-any", "name": direction},
        "dataset": {"type": data, "name": data},
        "metrics": [metric],
    }


def _audited(folder: Path, identities: set[str]) -> list[str]:
    """The section that an audit has written of itself."""
    _, results = _results(folder, "medcodi audit")
    with foreign(str(folder / RESULTS), expected="results of medcodi audit", fix="audit again"):
        judged = results["model"]
        if judged["sha256"] not in identities:
            what = f"audits {judged['name']} ({judged['sha256'][:12]})"
            raise _another(folder, what, identities, "medcodi audit --model MODEL --out BUNDLE")
    return _sealed(folder, AUDIT_SECTION, "medcodi audit").decode().rstrip().splitlines()


def _limits(domain: Domain | None) -> list[str]:
    lines = ["## Limits", "", "Nothing that it generates is for diagnosis, treatment, or any decision about a patient."]
    if domain is not None and domain.origin == PHANTOM:
        lines.append("It was trained on computed phantoms alone: it knows no real patient.")
    if domain is not None and domain.origin == REAL:
        lines.append(
            "It was trained on real studies: it can repeat what it has seen, and knows the patients of its source only."
        )
    return lines


# ---- bundles ---------------------------------------------------------------------------------------------------------
def _results(folder: Path, command: str) -> tuple[str, dict[str, Any]]:
    """SHA-256 and content of a bundle's ``results.json``."""
    data = _sealed(folder, RESULTS, command)
    results = parse_json(data, str(folder / RESULTS))
    if not isinstance(results, dict):
        raise DataError(
            f"{folder / RESULTS} holds no results", expected=f"a bundle of {command}", fix=f"run {command} again"
        )
    return hashlib.sha256(data).hexdigest(), results


def _sealed(folder: Path, name: str, command: str) -> bytes:
    """A file of a bundle; refused where it is not what the bundle's index lists."""
    expected, fix = f"a complete bundle of {command}", f"give its --out folder, or run {command} again"
    try:
        index, data = parse_json((folder / BUNDLE).read_bytes(), str(folder / BUNDLE)), (folder / name).read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder} holds no bundle ({error.strerror}: {error.filename})", expected=expected, fix=fix
        ) from None
    with foreign(str(folder / BUNDLE), expected=expected, fix=fix):
        listed = index["files"].get(name)
    if listed != hashlib.sha256(data).hexdigest():
        raise DataError(f"{folder / name} was changed after the bundle was written", expected=expected, fix=fix)
    return data


def _another(folder: Path, what: str, identities: set[str], command: str) -> DataError:
    wanted = " or ".join(sorted(identity[:12] for identity in identities))
    return DataError(f"{folder} {what}, another model", expected=f"a bundle of the model {wanted}", fix=command)


# ---- text ------------------------------------------------------------------------------------------------------------
def _table(columns: Sequence[str], rows: Any) -> list[str]:
    lines = [[*columns], ["---"] * len(columns), *([_cell(str(cell)) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    """Text in one cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def _arrow(direction: str) -> str:
    prompts, _, targets = direction.partition("->")
    return f"{prompts or 'nothing'} → {targets}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
