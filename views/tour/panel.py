"""Guided tour's panel, a card in a corner of the page, with its navigation buttons."""

from __future__ import annotations

import streamlit as st

from views.shared import nav
from views.state import session, tour_steps


def go(number: int) -> None:
    """To a step: its page, with its settings and nothing of the step before."""
    family = session.current_family()
    kept = ("view", "reference", "score_job", "merge_job", "theory_job", "experiment_job")
    state = session.usual(family) | {key: session.chosen(key) for key in kept}
    state |= tour_steps.settings(str(number), family.model.blocks) | {"tour": str(number)}
    session.replace(state)
    session.remember()
    st.switch_page(nav.page(tour_steps.STEPS[number - 1].page))


def leave() -> None:
    """Out of the tour; the link remembers where it was left. Everything else stays as it is."""
    session.choose_value("tour", f"{tour_steps.LEFT}{tour_steps.place(session.chosen('tour'))}")


def button() -> None:
    """Begins the tour, or goes on with it where it was left; nothing while it is shown."""
    value = session.chosen("tour")
    if tour_steps.place(value) is not None:
        return
    number = int(value.removeprefix(tour_steps.LEFT) or 1)
    label = f"Resume tour at step {number}" if value else "Tour"
    if st.button(label, key="tour-begin", type="tertiary"):
        go(number)


def show() -> None:
    """The step that is on, if any."""
    number = tour_steps.place(session.chosen("tour"))
    if number is None:
        return
    step = tour_steps.STEPS[number - 1]
    # style.py lays it over a corner of the page, opposite to what it speaks of.
    side = "left" if step.target == "right" else "right"
    with st.container(key=f"tour-{side}"), st.container(border=True, key="tour"):
        st.markdown(f"Step {number} of {len(tour_steps.STEPS)} · **{step.title}**")
        with st.container(horizontal=True, gap="small"):
            _ways(number)
        st.markdown(step.words)
        with st.expander(f"For the class: {step.question}", key=f"tour-question-{number}"):
            st.markdown(step.answer)
            _fact(step.fact)


def _fact(name: str) -> None:
    """What is measured so far of what the step asks."""
    from views.tour.facts import FACTS

    if name:
        st.markdown(FACTS[name]() or "*When it is measured, this line says what was found.*")


def _ways(number: int) -> None:
    """Back, next, to any step, and out."""
    last = number == len(tour_steps.STEPS)
    if st.button("Back", key="tour-back", disabled=number == 1):
        go(number - 1)
    if st.button("Next", key="tour-next", type="primary", disabled=last):
        go(number + 1)
    with st.popover("All steps", key="tour-steps"):
        st.caption("The address bar holds the link to the step that is shown.")
        for other, step in enumerate(tour_steps.STEPS, 1):
            if st.button(f"{other}. {step.title}", key=f"tour-{other}", type="tertiary"):
                go(other)
    st.button("Leave", key="tour-leave", on_click=leave, help="Resume later where you left.")
