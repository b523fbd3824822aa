"""The words around the tasks: welcome, consent, display check, end."""

from __future__ import annotations

from medcodi.config import config


@config
class PagesConfig:
    """Plain text; paragraphs are parted by blank lines. A group replaces what its ethics board wants replaced."""

    welcome: str = (
        "Thank you for reading. You will see chest examinations, one after the other, and answer one question about each.\n\n"
        "Everything stays on this computer: the page needs no network and sends nothing. Your answers are kept as you go; "
        "you can stop at any time and go on later, here or, with a progress file, on another computer.\n\n"
        "Please read alone, in a darkened room, and do not talk about the items with other readers before all have finished."
    )
    consent: str = (
        "Taking part is voluntary, and you may stop at any time. Your answers, the time you take for each, and the size of "
        "your screen are recorded under a reader number, without your name. The whole purpose of the study is told in the "
        "course of it."
    )
    consent_label: str = "I have read this and I take part."
    display_check: str = (
        "Set the screen to full brightness. In the picture below, the 5 % square should be visible inside the black square, "
        "and the 95 % square inside the white square."
    )
    end: str = (
        "You have finished. Please download the results file and send it to the person who gave you this folder. "
        "Thank you."
    )

    def before_tasks(self) -> tuple[str, ...]:
        """What a reader sees before the first task."""
        return self.welcome, self.consent, self.consent_label, self.display_check
