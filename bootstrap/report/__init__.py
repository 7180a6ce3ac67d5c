"""A run as people see it, from the files of its directory alone: nothing here knows the loop, a model or a world.

files.py         what lies in a run's directory      page.py          the run as one self-contained page
status.py        the run as JSON                     tables.py        figures by generation, for the page
outlook.py       how long the rest takes             figures.py       what evaluations measured
table.py         the run in a terminal               wrongthink.py    wrong thoughts and their corrections
transcript.py    one transcript in a terminal        plots.py         curves as inline SVG
                                                     page.html.jinja  how the page looks
"""
