"""A run as people see it, from the files of its directory alone: nothing here knows the loop, a model or a world.

status.py        the run as JSON and as a table      page.py          the run as one self-contained page
figures.py       what evaluations measured           wrongthink.py    wrong thoughts and their corrections
tables.py        figures by generation               page.html.jinja  how the page looks
plots.py         curves as inline SVG                transcript.py    one transcript in a terminal
"""
