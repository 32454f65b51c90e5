"""The corpus in the box: real drawings, composed on the fly, with exact ground truth.

Read in this order: `pack` (the drawings), `scene` (a picture of them), `world` (what may be shown when), `tasks` (documents).
"""
