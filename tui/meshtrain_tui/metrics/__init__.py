"""What a job measures as it runs, as curves: no Textual in here.

series   the numbers of the stream `metrics`, thinned to a bounded size
chart    one curve in characters, with its axes
"""
