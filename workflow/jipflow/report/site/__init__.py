"""The site's report: `page` composes it, every other module but `run` is a section.

A section is a function ``section(run)`` that returns what its template of the same name under
``resources/report/site`` shows.
"""
