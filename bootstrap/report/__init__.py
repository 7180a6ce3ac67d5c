"""A run as people see it, from the files of its directory alone: nothing here knows the loop, a model or a world.

files.py         what lies in a run's directory      page.py            the run as one self-contained page
units.py         what stages have committed          figures.py         what evaluations measured
numbers.py       numbers as people read them         tables.py          figures by generation
status.py        the run as JSON                     wrongthink.py      wrong thoughts and their corrections
outlook.py       how long the rest takes             plots.py           curves as inline SVG
goodput.py       where the time went                 page.html.jinja    how the page looks
live.py          the run while it goes on            macros.html.jinja  its tables, bars and legends
terminal.py      the run in a terminal               style.css.jinja    its colours and measures
screen.py        the same, while it goes on
transcript.py    one transcript in a terminal
"""
