"""Reading logs of any length: no Textual in here, and no more of a log in memory than is seen.

folding     what a terminal would show of a line: its last state
ansi        colours, and the plain text of a line
search      a regular expression over lines as they are shown
line_index  how many lines end in which block: line numbers without the log
times       when the bytes of a log came
blocks      the few pieces of a log that are kept
stream      one stream of an attempt on the master: its bytes, its lines, its times
document    the lines of one stream, from any place on
ranks       the lines of several streams, one after another in time
wrapping    a line on several rows
viewer      a window on all that: follow, scroll, jump, search
jump        what people type to get somewhere: a time, a line, a share
"""
