"""Pages on the user's own machine: a server for this machine alone, and what it shows.

`server` starts it, `security` guards it, `pages` fills templates. `viewer` is the pages to browse a run, over `index`
(claims, and what `filters` make of them), `sources` (examples of the run's tasks), `marks` (where claims stand in a
response) and `films` (pictures). Another family of pages is a list of routes beside the viewer's.
"""
