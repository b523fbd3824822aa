"""The page without a browser: a record is filled, a report is typed, a request is carried out and laid out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("nicegui", reason="the extra web is not installed")

from medcodi.config import load
from medcodi.model import ModelConfig, build_model
from medcodi.web.config import Limits, ServeConfig
from medcodi.web.server import build_page
from medcodi.web.service import Service

WITH_RECORDS = "models/tiny-record"  # a recipe


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("models") / "records"
    build_model(load(ModelConfig, WITH_RECORDS), ["The heart is large. No effusion."]).save_pretrained(folder)
    service = Service(ServeConfig(model=str(folder), limits=Limits(max_sessions=1)))
    yield service
    service.close()


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(1200):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


def test_a_record_and_a_report_make_a_frontal(service: Service) -> None:
    from nicegui import ui
    from nicegui.testing.user_simulation import user_simulation

    from medcodi.web.elements import Viewer

    async def session() -> None:
        async with user_simulation(lambda: build_page(service)) as user:
            await user.open("/")
            await user.should_see("Generate")

            def labelled(kind: type, label: str) -> Any:
                named = [each for each in user.find(kind=kind).elements if each.props.get("label") == label]
                return min(named, key=lambda each: each.id)  # of Generate, which comes before Edit

            with user:
                labelled(ui.textarea, "Report").value = "Moderate cardiomegaly."
                labelled(ui.number, "age (years)").value = 71
                labelled(ui.select, "sex").value = "F"
                labelled(ui.number, "Samples").value = 2
                labelled(ui.number, "Steps (empty: the preset's)").value = 1
                boxes = {each.text: each for each in user.find(kind=ui.checkbox).elements}
                assert {title for title, box in boxes.items() if box.enabled} == {"Frontal X-ray", "Lateral X-ray"}
                boxes["Lateral X-ray"].value = False
            user.find(kind=ui.button, content="Generate").click()
            viewers = user.find(kind=Viewer).elements
            await until(lambda: any(viewer.props["panels"] for viewer in viewers))
            panels = next(viewer.props["panels"] for viewer in viewers if viewer.props["panels"])
            assert [(panel["slot"], panel["name"]) for panel in panels] == [
                ("Prompt", "report"), ("Prompt", "record"), ("Sample 1", "frontal"), ("Sample 2", "frontal"),
            ]  # fmt: skip
            assert panels[1]["text"] == "age=71, sex=F"
            # A second page is one too many for this server, and says so.
            other = await user.http_client.get("/")
            assert other.status_code == 200 and "1 pages are open" in other.text

    asyncio.run(session())
