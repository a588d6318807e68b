"""Explore: the map, its strips, sliders and readouts in one view."""

from __future__ import annotations

from views.explore import gear, page

family = gear.top()
page.show(family)
