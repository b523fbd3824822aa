"""Wording of the results: a methods paragraph for the paper, and a verdict on each task."""

from __future__ import annotations

from typing import Any

from medcodi.turing.statistics import NEW_READERS, THESE_READERS

# The first of these statistics that a task has is the figure that its verdict begins with.
_MAIN = ("difference in mean rating", "balanced accuracy", "accuracy", "difference in accuracy over all findings")


def methods(results: dict[str, Any]) -> list[str]:
    """Paragraphs that describe design and analysis with the numbers of this study."""
    level = f"{100 * results['level']:g} %"
    completeness = results["completeness"]
    unfinished = completeness["half_finished"]
    # Design.
    tasks = []
    for name, facts in results["tasks"].items():
        items = ", ".join(f"{count} {arm}" for arm, count in facts["items"].items())
        tasks.append(f"{name} ({facts['kind'].replace('_', ' ')}; {items})")
    margins = [f"{name}: {facts['margin']}" for name, facts in results["tasks"].items() if facts["margin"] is not None]
    kinds = {facts["answer"] for facts in results["tasks"].values()}
    design = (
        f"{len(results['readers'])} readers judged items in {len(tasks)} tasks: {'; '.join(tasks)}. Items of all arms passed one "
        "blinding pipeline and were shown in an order randomised for each reader; the answer key was fixed by its salted SHA-256 "
        "before reading."
        + (
            f" {len(unfinished)} reader(s) had not finished ({', '.join(unfinished)}); the answers that they gave were analysed."
            if unfinished
            else ""
        )
        + (f" {len(completeness['excluded'])} answers were excluded at import." if completeness["excluded"] else "")
    )
    # Analysis: what every study has, then what its kinds of task add.
    how = [
        f"Intervals are {level}. Estimates over all readers are unweighted means of the readers' own values. For the readers who took "
        "part, the variance over new cases comes from resampling cases jointly for all readers, stratified by arm (patients with items "
        "in both arms were kept whole). For readers in general, the mean square between readers is added (Obuchowski and Rockette 1995), "
        "with degrees of freedom 1/df = s/(r-1) + (1-s)/df_cases, where s is the readers' share of the variance; no such interval is "
        "given for fewer than 3 readers."
    ]
    if "choice" in kinds:
        how.append(
            "Accuracy, sensitivity (generated items called generated) and specificity (real items called real) of each reader carry Wilson "
            f"intervals; over readers, a reader × case bootstrap ({results['num_resamples']} resamples of the cases) gave the covariances, and "
            "Wilson's formula was used at the effective number of answers. d' and criterion use the log-linear correction (Hautus 1995). "
            "ROC areas are empirical, from the signed confidence, ties counted half. Each reader was tested against guessing by an exact "
            "binomial test, all readers together by a t test of (balanced) accuracy. "
            "Learning is the change of a straight line from the first to the last trial."
        )
    if "rating" in kinds:
        how.append(
            "Ratings of each arm were compared with those of real items by the difference in means, the probability of a higher rating, and the "
            "Mann-Whitney test, or Wilcoxon's signed-rank test where the arms show the same cases (scipy), on each reader and on the items' means "
            "over readers; and by a linear mixed model with case, reader and reader × arm as random effects (REML, statsmodels), its interval by Student's t."
        )
    if "findings" in kinds:
        how.append(
            "Findings marked were compared with those known to be there, for each finding and over all, real against generated."
        )
    how.append(
        "Agreement: Cohen's kappa (quadratic weights for ratings) and Fleiss' kappa (statsmodels), Krippendorff's alpha, and for ratings the "
        "intraclass correlations (2,1), (2,k), (3,1) and (3,k) of Shrout and Fleiss, with intervals over cases. "
        "One test for each task and contrast was corrected after Holm over the study."
    )
    if margins:
        how.append(
            f"Equivalence was tested by two one-sided t tests at {results['alpha']} each, against margins declared in the study file before "
            f"export ({'; '.join(margins)}). The absence of a significant difference was not taken as equivalence."
        )
    else:
        how.append(
            "No equivalence margin had been declared; the absence of a significant difference is not taken as equivalence."
        )
    return [design, *how, f"Analysis: medcodi {results['medcodi']} (medcodi turing analyze)."]


def verdicts(results: dict[str, Any]) -> list[dict[str, str]]:
    """For each task, what can be said and what cannot."""
    verdicts, doubted = [], doubtful_readers(results)
    for task, facts in results["tasks"].items():
        text, tone = _equivalence_verdict(results, task, facts["margin"])
        # Nothing that rests on a doubtful reader is certain, however narrow its interval.
        own = [reader for reader in doubted if facts.get("answers", {}).get(reader, 1)]
        if own:
            text += f" Doubtful, because it counts the answers of {_listed(own)}: check {'them' if len(own) > 1 else 'this reader'} first."
            tone = "doubt"
        verdicts.append({"task": task, "tone": tone, "text": _main_figure(results, task) + text})
    return verdicts


def doubtful_readers(results: dict[str, Any]) -> list[str]:
    """Readers with doubts (impossible times, no display check) or with excluded answers, of those whose answers were analysed."""
    completeness = results["completeness"]
    named = {doubt.partition(":")[0] for doubt in completeness["doubtful"]}  # a doubt begins with the reader's name
    named |= {answer["reader"] for answer in completeness["excluded"]}
    return [reader for reader in results["readers"] if reader in named]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _equivalence_verdict(results: dict[str, Any], task: str, declared: float | None) -> tuple[str, str]:
    """Verdict on equivalence and on a difference, and the tone of the box: ``ok``, ``none`` or ""."""
    outcomes = {e["population"]: e for e in results["equivalences"] if e["task"] == task}
    main = [t for t in results["tests"] if t["task"] == task and "p_holm" in t and "generated" in t["contrast"]]
    different = bool(main) and min(t["p_holm"] for t in main) <= results["alpha"]
    # No test of equivalence: only the difference, or its absence, which shows nothing.
    if not outcomes:
        no_margin = "No margin was declared, so nothing is said about equivalence."
        text = no_margin if declared is None else "Equivalence could not be tested."
        tail = " A difference was found." if different else " No difference was found, which shows nothing by itself."
        return text + (tail if main else ""), "none"
    # Equivalence, for these readers and for new ones.
    these, new = outcomes.get(THESE_READERS), outcomes.get(NEW_READERS)
    what = (these or new or {}).get("what", "")
    margin = f"Equivalence within the declared margin of ±{declared} ({what})"
    if these and these["shown"]:
        scope = " and for new readers" if new and new["shown"] else "; not shown for readers in general"
        text, tone = f"{margin} is shown for these readers{scope}.", "ok"
    elif new and new["shown"]:
        text, tone = f"{margin} is shown for new readers, but not for these: too few cases to tell.", "none"
    else:
        text, tone = f"{margin} is not shown.", ""
    # A difference beside it.
    if different:
        text += " A difference from real items was found" + (", smaller than the margin." if tone == "ok" else ".")
    elif tone != "ok":
        text += " Nor was a difference: the study is too small, or the readers too unlike, to say either."
    return text, tone


def _main_figure(results: dict[str, Any], task: str) -> str:
    """The main figure of the generated arm for these readers, in words; "" without one."""
    pooled = [
        e
        for e in results["estimates"]
        if e["task"] == task and e["contrast"].startswith("generated") and not e["reader"]
        if e["population"] == THESE_READERS and e["low"] is not None and not e["group"].startswith("finding:")
    ]
    for statistic in _MAIN:
        for e in pooled:
            if e["statistic"] == statistic:
                name = statistic[0].upper() + statistic[1:]
                return f"{name}, {e['contrast']}: {e['value']:.2f} [{e['low']:.2f}, {e['high']:.2f}]. "
    return ""
