"""The Explore page: the map, its strips, sliders and readouts in one view, and what feeds them."""
