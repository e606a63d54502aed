"""Pages: tables, words and figures as HTML, CSV and LaTeX."""
