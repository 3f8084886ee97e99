"""Rendered natural-looking scenes, for pre-training where no photographs are at hand.

`python -m synthetic.scenes --to DIR` writes a flat folder of JPEGs: landscapes, still lifes, streets, rooms,
flowers and close-ups, made of 1/f noise, light, shade, occlusion and depth blur. They show a learner
objects in context with the statistics of photographs; they do not replace photographs.
"""
